"""Reconstruction of a quantized network, layer by layer."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from after_training import SHARED, SHARED_SHAPES, Network, every_layer, network_of, shaped
from torch import Tensor, fx

from mpqtool.importer import import_graph
from mpqtool.importer.writeback import write_parameters
from mpqtool.methods import ptq
from mpqtool.methods.lockstep import Lane, live_bytes, weighted_nodes
from mpqtool.methods.ptq import Reconstruction, Rounding, reconstruct, samples_that_fit
from mpqtool.passes.layers import bias_of, is_layer, set_bias
from mpqtool.passes.plan import Grid, WeightQuant
from mpqtool.quantizers.attach import attach, weight_quantizers

LAYERS = ("w0", "w1", "w2", "w3")


def _weights(network: fx.GraphModule) -> dict[str, Tensor]:
    parameters = dict(network.named_parameters())
    return {q.name: parameters[q.name].detach().clone() for q in weight_quantizers(network)}


def _made(network: Network, attached: fx.GraphModule, found: Reconstruction) -> fx.GraphModule:
    """The network with the biases and weights that were found, built from its ONNX graph."""
    model = network.model.clone()
    for node in model.graph:
        name = str(node.inputs[1].name) if is_layer(node) else ""
        if name in found.biases:
            bias = bias_of(node)
            set_bias(node, found.biases[name].numpy() + (0 if bias is None else bias))
    write_parameters(model, {name: weight.numpy() for name, weight in _weights(attached).items()})
    return attach(import_graph(model), network.plan).eval()


@torch.no_grad()
def _results(network: fx.GraphModule, x: Tensor, *, quantized: bool) -> dict[str, Tensor]:
    """What every layer gives, by its weight, in float64."""
    lane, found = Lane(network, [x], quantized=quantized), {}
    layers = {layer.node: layer.quantizer.name for layer in weighted_nodes(network)}
    for node in network.graph.nodes:
        lane.advance(node)
        if node in layers:
            found[layers[node]] = lane.env[node].double()
        lane.forget(node)
    return found


def _error(network: Network, rounding: Rounding, *, correct_bias: bool) -> float:
    """Mean squared error of the output."""
    attached = network.attached
    found = reconstruct(attached, network.chunks(), rounding=rounding, correct_bias=correct_bias)
    made = _made(network, attached, found)
    with torch.no_grad():
        return float((made(network.inputs)[0] - network.plain(network.inputs)[0]).square().mean())


@pytest.mark.parametrize("rounding", ["adaround", "nearest"])
@pytest.mark.parametrize("chunks", [(), (10, 14)], ids=["at-once", "in-parts"])
def test_every_layer_has_the_mean_of_the_float_network(
    rng: np.random.Generator, rounding: Rounding, chunks: tuple[int, ...]
) -> None:
    network = every_layer(rng)
    attached = network.attached
    found = reconstruct(attached, network.chunks(*chunks), rounding=rounding)
    assert tuple(found.biases) == LAYERS
    assert found.left_alone == {}
    expected = _results(network.attached, network.inputs, quantized=False)
    before = _results(network.attached, network.inputs, quantized=True)
    after = _results(_made(network, attached, found), network.inputs, quantized=True)
    for name, y in expected.items():
        axes = (0,) if y.ndim == 2 else (0, 2, 3)
        here, was = ((values[name].mean(axes) - y.mean(axes)).abs().max() for values in (after, before))
        assert here < 1e-6  # as far as float32 goes
        assert was > 1e-3


def test_roundings_and_biases_make_the_error_smaller(rng: np.random.Generator) -> None:
    network = every_layer(rng)
    nearest, biased, rounded, both = (
        _error(network, rounding, correct_bias=correct_bias)
        for rounding, correct_bias in (
            ("nearest", False), ("nearest", True), ("adaround", False), ("adaround", True),
        )
    )  # fmt: skip
    assert both < biased < nearest
    assert both < rounded < nearest


def test_weights_become_one_of_their_two_neighbours(rng: np.random.Generator) -> None:
    network = every_layer(rng)
    attached = network.attached
    before = _weights(attached)
    reconstruct(attached, network.chunks(), correct_bias=False)
    moved = 0
    for quantizer in weight_quantizers(attached):
        weight, old = (
            w.flatten(1) / quantizer.scale[:, None]
            for w in (_weights(attached)[quantizer.name], before[quantizer.name])
        )
        torch.testing.assert_close(weight, weight.round(), rtol=0, atol=1e-6)  # code * scale / scale
        low, high = -(2 ** (quantizer.bits[0] - 1)), 2 ** (quantizer.bits[0] - 1) - 1
        below, above = (bound.clamp(low, high) for bound in (old.floor(), old.floor() + 1))
        assert bool(((weight.round() == below) | (weight.round() == above)).all())
        moved += int((weight.round() != old.round().clamp(low, high)).sum())
    assert moved > 20


@torch.no_grad()
def test_parts_of_the_samples_give_what_all_at_once_give(rng: np.random.Generator) -> None:
    network = every_layer(rng)
    first, second = network.attached, network.attached
    at_once = reconstruct(first, network.chunks())
    in_parts = reconstruct(second, network.chunks(1, 12, 11))
    for name, weight in _weights(first).items():
        assert torch.equal(_weights(second)[name], weight)
        # Means of float32 differences, in parts.
        torch.testing.assert_close(in_parts.biases[name], at_once.biases[name], rtol=0, atol=1e-6)


def test_auto_rounds_layers_of_8_bits_to_nearest(rng: np.random.Generator) -> None:
    network = every_layer(rng, samples=4)
    wide = network.plan.weights[0].model_copy(update={"bits": (8,) * 6})
    network = Network(
        network.model, network.plan.replaced(weights=[wide, *network.plan.weights[1:]]), network.inputs
    )
    attached = network.attached
    before = _weights(attached)
    found = reconstruct(attached, network.chunks(), rounding="auto")
    changed = [name for name, weight in _weights(attached).items() if not torch.equal(weight, before[name])]
    assert changed == ["w1", "w2", "w3"]
    assert tuple(found.biases) == LAYERS  # they are corrected all the same


def test_nothing_is_to_be_done(rng: np.random.Generator) -> None:
    network = every_layer(rng, samples=4)
    attached, told = network.attached, list[int]()
    before = _weights(attached)
    found = reconstruct(
        attached, network.chunks(), rounding="nearest", correct_bias=False, on_layer=told.append
    )
    assert found == Reconstruction({}, {})
    assert told == [1] * len(LAYERS)
    assert all(torch.equal(weight, before[name]) for name, weight in _weights(attached).items())


def test_a_weight_of_several_layers_is_left_alone(rng: np.random.Generator) -> None:
    network = network_of(SHARED, shaped(rng, SHARED_SHAPES), rng.normal(size=(8, 2, 6, 6)))
    attached = network.attached
    before = _weights(attached)
    found = reconstruct(attached, network.chunks(), rounding="adaround")
    assert found.left_alone == {"w0": "several layers use it"}
    assert tuple(found.biases) == ("w1",)
    assert torch.equal(_weights(attached)["w0"], before["w0"])
    assert not torch.equal(_weights(attached)["w1"], before["w1"])


def test_a_weight_of_an_unknown_operator_is_left_alone(rng: np.random.Generator) -> None:
    text = """
        net (float[N, 2, 6, 6] x) => (float[N, 2, 6, 6] y) {
            c = Conv (x, w0)
            y = Mul (c, w1)
        }"""
    shapes = {"w0": (2, 2, 1, 1), "w1": (2, 6, 6)}
    network = network_of(text, shaped(rng, shapes), rng.normal(size=(8, 2, 6, 6)))
    entry = WeightQuant(name="w1", bits=(4, 4), grid=Grid.FULL, scale=(0.1, 0.1))
    plan = network.plan.replaced(weights=[*network.plan.weights, entry])
    attached = Network(network.model, plan, network.inputs).attached
    found = reconstruct(attached, network.chunks(), rounding="adaround")
    assert tuple(found.biases) == ("w0",)
    assert found.left_alone == {"w1": "what uses it is no Conv or Gemm"}


def test_many_positions_are_drawn_from(rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of each picture equally many, at least so many as are enough."""
    network = every_layer(rng)
    counts = []
    solve = ptq.round_for_outputs

    def seen(*given: object) -> Tensor:
        counts.append(given[-1].count)  # type: ignore[attr-defined]
        return solve(*given)  # type: ignore[arg-type]

    monkeypatch.setattr(ptq, "round_for_outputs", seen)
    monkeypatch.setattr(ptq, "_POSITIONS", 200)
    found = [reconstruct(network.attached, network.chunks(10, 14)) for _ in range(2)]
    # 24 pictures: 9 for 200, 9, and 9 for 4 * 27 inputs; of a matrix all 24 * 25 rows.
    assert counts == [9 * 24, 9 * 24, 9 * 24, 600] * 2
    assert all(torch.equal(found[0].biases[name], found[1].biases[name]) for name in LAYERS)


def test_samples_are_as_many_as_fit(rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch) -> None:
    network = every_layer(rng, samples=4)
    attached = network.attached
    sample = live_bytes(attached, [network.inputs]) // 4
    monkeypatch.setattr(ptq, "_MEMORY", 10 * 2 * sample)
    assert samples_that_fit(attached, [network.inputs]) == 10
    monkeypatch.setattr(ptq, "_MEMORY", 1)
    assert samples_that_fit(attached, [network.inputs]) == 1
