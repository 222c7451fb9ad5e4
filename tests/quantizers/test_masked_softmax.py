"""Attention whose mask is far below the other values: -10000, the least float32 or infinity."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest
import torch
from compare import run_onnx
from graphs import normal

from mpqtool.importer import import_graph
from mpqtool.passes import functions, pipelines
from mpqtool.passes.place import place
from mpqtool.passes.plan import Grid
from mpqtool.passes.quantize import complete
from mpqtool.quantizers.attach import activation_quantizers, attach, read_plan, weight_quantizers
from mpqtool.quantizers.calibrate import _OUT_OF_SIGHT, calibrate
from mpqtool.runtime.reference import Reference
from mpqtool.runtime.session import LEVELS
from mpqtool.simulate import IntegerSimulation

TOKENS, WIDTH = 12, 8
TEXT = f"""net (float[N, {TOKENS}, {WIDTH}] x) => (float[N, {TOKENS}, {WIDTH}] y) <float root = {{2.83}}> {{
    q = MatMul (x, wq)
    k = MatMul (x, wk)
    v = MatMul (x, wv)
    t = Transpose <perm = [0, 2, 1]> (k)
    m = MatMul (q, t)
    d = Div (m, root)
    s = Add (d, mask)
    a = Softmax <axis = -1> (s)
    o = MatMul (a, v)
    y = MatMul (o, wo)
}}"""
X = np.random.default_rng(1).normal(size=(16, TOKENS, WIDTH)).astype(np.float32)
LEAST = float(np.finfo(np.float32).min)


def _model(masked: float) -> ir.Model:
    rng = np.random.default_rng(0)
    names = ("wq", "wk", "wv", "wo")
    weights = {name: rng.normal(size=(WIDTH, WIDTH)).astype(np.float32) / WIDTH**0.5 for name in names}
    mask = np.where(np.tri(TOKENS, dtype=bool), 0, masked).astype(np.float32)
    return normal(TEXT, {**weights, "mask": mask})


def _network(model: ir.Model) -> torch.fx.GraphModule:
    plan = place(model, weight_bits=8, activation_bits=8, grid=Grid.SIGNED)
    network = attach(import_graph(model), plan).eval()
    parameters = dict(network.named_parameters())
    for quantizer in weight_quantizers(network):
        quantizer.fit(parameters[quantizer.name].detach())
    calibrate(network, [[torch.from_numpy(X)]], activation_quantizers(network))
    return network


@pytest.mark.parametrize("masked", [-1e4, LEAST, -np.inf])
def test_stays_accurate_and_all_engines_agree(masked: float) -> None:
    model = _model(masked)
    network = _network(model)
    lowered = pipelines.lower(pipelines.quantize(model, complete(model, read_plan(network))))
    reference = Reference(lowered)
    expected = reference.run({"x": X})
    assert reference.islands == ()
    simulated = IntegerSimulation(network).on_arrays(model)({"x": X})
    for name in reference.codes:
        np.testing.assert_array_equal(simulated[name], expected[name], err_msg=name)
    for level in LEVELS:
        found = run_onnx(lowered, {"x": X}, level=level, expose=reference.codes)
        for name in reference.codes:
            np.testing.assert_array_equal(found[name], expected[name], err_msg=f"{name} {level}")
    real = run_onnx(model, {"x": X})["y"]
    error = float(np.abs(expected["y"] - real).mean() / np.abs(real).mean())
    # Without a mask it is 0.026; if the mask takes the range, all tokens before have the same weight.
    assert error < 0.03


def test_scales_still_learn_where_the_mask_is_infinite() -> None:
    network = _network(_model(-np.inf)).train()

    network(torch.from_numpy(X))[0].square().sum().backward()

    gradients = [quantizer.learned_scale.grad for quantizer in activation_quantizers(network)]
    assert all(gradient is None or torch.isfinite(gradient) for gradient in gradients)


def test_what_counts_as_out_of_sight_is_0_in_integers() -> None:
    assert functions.softmax_exponentials(_OUT_OF_SIGHT)[1] == 0
    assert functions.softmax_exponentials(_OUT_OF_SIGHT - 1)[1] == 1
