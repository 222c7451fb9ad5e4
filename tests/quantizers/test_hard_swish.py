"""Scales in front of HardSwish, which are trained and still make real 3 a whole number of codes."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest
import torch
from graphs import calibrated, normal
from onnx_text import ops

from mpqtool.importer import import_graph
from mpqtool.passes import functions, pipelines
from mpqtool.passes.place import place
from mpqtool.passes.plan import Grid
from mpqtool.passes.quantize import complete
from mpqtool.quantizers import ActivationQuantizer
from mpqtool.quantizers.attach import activation_quantizers, attach, read_plan, weight_quantizers
from mpqtool.quantizers.calibrate import calibrate

TEXT = """
net (float[N, 2, 6, 6] x) => (float[N, 3, 6, 6] y) {
    c = Conv (x, w0)
    h = HardSwish (c)
    d = Conv (h, w1)
    y = Conv (d, w2)
}
"""


def _model(rng: np.random.Generator) -> ir.Model:
    shapes = {"w0": (4, 2, 1, 1), "w1": (4, 4, 1, 1), "w2": (3, 4, 1, 1)}
    return normal(TEXT, {name: rng.normal(size=shape) * 1.5 for name, shape in shapes.items()})


def _quantizer(scale: float, zero_point: int, *, before_hard_swish: bool = True) -> ActivationQuantizer:
    made = ActivationQuantizer(
        "x", 8, zero_point=zero_point, nonnegative=False, before_hard_swish=before_hard_swish
    )
    made.set_numbers(scale=scale, zero_point=zero_point)
    return made


def test_a_calibrated_network_multiplies_codes(rng: np.random.Generator) -> None:
    model = _model(rng)
    x = rng.normal(size=(64, 2, 6, 6)).astype(np.float32)
    network = attach(import_graph(model), place(model, weight_bits=8, activation_bits=8, grid=Grid.SIGNED))
    for weight in weight_quantizers(network):
        weight.fit(dict(network.named_parameters())[weight.name])
    quantizers = activation_quantizers(network)

    calibrate(network, [(torch.from_numpy(x),)], quantizers)

    assert [q.name for q in quantizers if q.before_hard_swish] == ["c"]
    found = read_plan(network).activation("c")
    assert found is not None
    assert functions.hard_swish_reach(found.scale, found.zero_point) is not None
    again = attach(import_graph(model), read_plan(network))
    assert read_plan(again).activation("c") == found  # to the last bit
    assert "QLinearMul" in ops(pipelines.lower(pipelines.quantize(model, read_plan(network))))


def test_a_scale_of_the_plan_stays(rng: np.random.Generator) -> None:
    model = _model(rng)
    x = rng.normal(size=(64, 2, 6, 6)).astype(np.float32)
    plan = complete(model, calibrated(model, {"x": x}, weight_bits=8, grid=Grid.SIGNED))

    assert read_plan(attach(import_graph(model), plan)).activations == plan.activations


@pytest.mark.parametrize("reach", range(16, 256))
def test_the_scale_moves_by_half_a_code_in_three_at_most(reach: int) -> None:
    scale = 3 / (reach + 0.49)

    whole = float(_quantizer(scale, 255).scale.detach())

    assert functions.hard_swish_reach(whole, 255) == reach
    assert whole == pytest.approx(scale, rel=0.5 / reach)


@pytest.mark.parametrize("zero_point", [0, 94, 127])
def test_a_scale_that_is_coarse_enough_needs_no_minus_3_in_its_range(zero_point: int) -> None:
    whole = float(_quantizer(3 / 127.4, zero_point).scale.detach())

    assert functions.hard_swish_reach(whole, zero_point) == 127


@pytest.mark.parametrize(
    ("scale", "zero_point", "before_hard_swish"),
    [
        pytest.param(3 / 127.6, 127, True, id="the-range-ends-above-minus-3"),
        pytest.param(0.25, 100, True, id="coarse"),
        pytest.param(9.0, 100, True, id="very-coarse"),
        pytest.param(0.0314, 128, False, id="no-hard-swish"),
    ],
)
def test_the_scale_stays(scale: float, zero_point: int, before_hard_swish: bool) -> None:
    quantizer = _quantizer(scale, zero_point, before_hard_swish=before_hard_swish)

    quantizer.scale.backward()

    assert float(quantizer.scale.detach()) == np.float32(scale)
    assert float(quantizer.learned_scale.grad) == 1


def test_the_scale_learns_as_if_it_were_not_rounded(rng: np.random.Generator) -> None:
    x = torch.from_numpy(rng.normal(size=(8, 100)).astype(np.float32))
    gradients = []
    whole = float(_quantizer(0.0314, 120).scale.detach())
    for scale, before_hard_swish in ((0.0314, True), (whole, False)):
        quantizer = _quantizer(scale, 120, before_hard_swish=before_hard_swish)
        (quantizer(x) - x).square().sum().backward()
        gradients.append(float(quantizer.learned_scale.grad))

    assert gradients[0] == pytest.approx(gradients[1], rel=0.02)  # two scales that differ by 0.5 %
