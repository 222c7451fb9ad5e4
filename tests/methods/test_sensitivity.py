"""Every term by hand."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from graphs import residual_cnn
from torch import fx

from mpqtool.hardware import layer_costs
from mpqtool.importer import import_graph
from mpqtool.methods.groups import Activation, Weights
from mpqtool.methods.noise_gain import NoiseGains
from mpqtool.methods.sensitivity import Amounts, ranked, savings, sensitivities
from mpqtool.methods.width_variables import LayerCost
from mpqtool.passes.place import place
from mpqtool.passes.plan import Grid
from mpqtool.quantizers import ActivationQuantizer, WeightQuantizer
from mpqtool.quantizers.attach import activation_quantizers, attach, weight_quantizers


@pytest.fixture
def network(rng: np.random.Generator) -> fx.GraphModule:
    """A residual network, kernels of 3 and 4 bits, activations of 6."""
    model = residual_cnn(rng)
    made = attach(import_graph(model), place(model, weight_bits=4, activation_bits=6, grid=Grid.ODD))
    parameters = dict(made.named_parameters())
    for quantizer in weight_quantizers(made):
        assert isinstance(quantizer, WeightQuantizer)
        quantizer.bits[::2] = 3
        quantizer.fit(parameters[quantizer.name])
    for value in activation_quantizers(made):
        assert isinstance(value, ActivationQuantizer)
        value.set_numbers(scale=0.25, zero_point=0)
        value.elements = 10
    return made


def _gains(network: fx.GraphModule) -> NoiseGains:
    return NoiseGains(
        {q.name: torch.arange(1, len(q.bits) + 1).double() for q in weight_quantizers(network)},
        {q.name: 5.0 for q in activation_quantizers(network)},
        from_classes=True,
    )


@pytest.mark.parametrize("kind", ["bound", "paper", "repo"])
def test_sensitivities(network: fx.GraphModule, kind: str) -> None:
    found = sensitivities(kind, network, _gains(network))
    weight = dict(network.named_parameters())["w1"].detach().double()
    quantizer = next(q for q in weight_quantizers(network) if q.name == "w1")
    for kernel in range(8):
        bits, gain = (4 if kernel % 2 else 3), kernel + 1
        expected = {
            "bound": (2 * float(quantizer.scale[kernel])) ** 2 * gain,  # odd codes are two apart
            "paper": gain / 2**bits,
            "repo": 24 * gain / 2**bits * float(weight[kernel].abs().mean()),
        }[kind]
        assert float(found.weights["w1"][kernel]) == pytest.approx(expected, rel=1e-6)
    # At a step of 0.25, 6 bits are clipped at 16.
    assert found.activations["r0"] == pytest.approx(
        {"bound": 5 / 16, "paper": 5 / 64, "repo": 24 * 5 * 16 / 64}[kind]
    )


def test_the_last_bit_costs_what_the_kernel_does_less_what_its_noise_did(network: fx.GraphModule) -> None:
    gains = _gains(network)
    quantizer = next(q for q in weight_quantizers(network) if q.name == "w3")
    quantizer.bits[:2] = 1
    plain = sensitivities("bound", network, gains).weights["w3"]
    removal = {q.name: torch.full((len(q.bits),), 100.0).double() for q in weight_quantizers(network)}
    removal["w3"][1] = 0.0  # less than its noise
    found = sensitivities("bound", network, gains, removal).weights["w3"]
    assert found.tolist() == [pytest.approx((100 - float(plain[0])) / 3), 0.0, *plain[2:].tolist()]


def test_what_a_bit_saves(network: fx.GraphModule) -> None:
    costs = [LayerCost("w0", "x", 0.25), LayerCost("w1", "r0", 0.75)]
    bits, macs, one = (savings(kind, network, costs) for kind in ("bits", "macs", "group"))
    assert bits.weights["w1"].tolist() == [36] * 8  # 4 x 3 x 3 weights each
    assert bits.activations["r0"] == 10
    assert one.weights["w1"].tolist() == [1] * 8
    assert one.activations["r0"] == 1
    assert macs.weights["w1"].tolist() == pytest.approx([0.75 / 8 * 6] * 8)
    assert macs.activations["r0"] == pytest.approx(0.75 * 3.5)  # kernels of 3 and 4 bits


def test_macs_are_those_of_the_layers(rng: np.random.Generator) -> None:
    model = residual_cnn(rng)
    plan = place(model, weight_bits=4, activation_bits=6, grid=Grid.ODD)
    names = [entry.name for entry in plan.weights]
    costs = layer_costs(model, plan, "bitops", learned=names, inputs={"x": np.zeros((1, 2, 8, 8))})
    by_name = {cost.weight: cost for cost in costs}
    # 8x8 positions of 4 x 2 x 9 weights, against 2x2 of 8 x 4 x 9.
    assert by_name["w0"].share / by_name["w1"].share == pytest.approx(64 * 72 / (4 * 288))
    assert (by_name["w0"].input, by_name["w1"].input) == ("x", "r0")


def test_the_order_is_of_cost_by_saving_and_what_saves_nothing_is_last(network: fx.GraphModule) -> None:
    quantizer = next(q for q in weight_quantizers(network) if q.name == "w3")
    assert isinstance(quantizer, WeightQuantizer)
    kernels = [Weights([quantizer], index) for index in range(5)]
    cost = torch.tensor([4.0, 2.0, 2.0, 0.5, 0.1], dtype=torch.float64)
    saved = torch.tensor([4.0, 1.0, 1.0, 1.0, 0.0], dtype=torch.float64)
    order = ranked(kernels, Amounts({"w3": cost}, {}), Amounts({"w3": saved}, {}))
    assert [entry.group for entry in order] == [kernels[index] for index in (3, 0, 1, 2, 4)]
    assert [entry.sensitivity for entry in order] == [0.5, 4, 2, 2, 0.1]


def test_a_layer_has_the_sum_of_its_kernels(network: fx.GraphModule) -> None:
    quantizer = next(q for q in weight_quantizers(network) if q.name == "w3")
    assert isinstance(quantizer, WeightQuantizer)
    quantizer.bits[0] = 1  # has none to give
    amounts = Amounts({"w3": torch.tensor([10.0, 1, 2, 3, 4]).double()}, {"r0": 7.0})
    assert amounts.of(Weights([quantizer])) == 10
    value = next(q for q in activation_quantizers(network) if q.name == "r0")
    assert isinstance(value, ActivationQuantizer)
    assert amounts.of(Activation(value)) == 7
