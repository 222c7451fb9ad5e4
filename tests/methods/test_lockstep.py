"""Two networks side by side: what is float is float, and what is forgotten is gone."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from after_training import every_layer, network_of, shaped
from torch import fx
from torch.nn import functional as F

from mpqtool.methods.lockstep import Lane, live_bytes, weighted_nodes

CHAIN = """
    net (float[N, 2, 6, 6] x) => (float[N, 3, 6, 6] y) {
        c = Conv (x, w0)
        r = Relu (c)
        y = Conv (r, w1)
    }"""
RESIDUAL = """
    net (float[N, 2, 6, 6] x) => (float[N, 3, 6, 6] y) {
        c = Conv (x, w0)
        d = Conv (c, w2)
        a = Add (c, d)
        y = Conv (a, w1)
    }"""
SHAPES = {"w0": (4, 2, 1, 1), "w1": (3, 4, 1, 1)}


@torch.no_grad()
def _values(network: fx.GraphModule, inputs: torch.Tensor, *, quantized: bool) -> dict[str, torch.Tensor]:
    """All values by ONNX name, and the results as ``y0``."""
    lane, seen = Lane(network, [inputs], quantized=quantized), {}
    for node in network.graph.nodes:
        lane.advance(node)
        if node.op == "output":
            seen["y0"] = lane.env[node][0]
        elif "onnx_name" in node.meta:
            seen[node.meta["onnx_name"]] = lane.env[node]
        lane.forget(node)
    assert len(lane.env) == 1  # the result; nothing uses that
    return seen


def test_a_float_lane_is_the_float_network_value_by_value(rng: np.random.Generator) -> None:
    network = every_layer(rng, samples=3)
    found = _values(network.attached, network.inputs, quantized=False)
    expected = _values(network.plain, network.inputs, quantized=True)
    assert found.keys() == expected.keys()
    assert {"x", "c0", "r1", "a", "w3"} <= found.keys()
    assert all(torch.equal(found[name], value) for name, value in expected.items())


@torch.no_grad()
def test_a_quantized_lane_is_the_quantized_network(rng: np.random.Generator) -> None:
    network = every_layer(rng, samples=3)
    attached = network.attached
    found = _values(attached, network.inputs, quantized=True)["y0"]
    assert torch.equal(found, attached(network.inputs)[0])
    assert not torch.equal(found, network.plain(network.inputs)[0])


def test_layers_come_in_order_with_what_they_multiply(rng: np.random.Generator) -> None:
    network = every_layer(rng, samples=2)
    attached = network.attached
    layers = weighted_nodes(attached)
    assert [layer.quantizer.name for layer in layers] == ["w0", "w1", "w2", "w3"]
    lane, (first, *_) = Lane(attached, [network.inputs], quantized=True), layers
    for node in attached.graph.nodes:
        if node is first.node:
            break
        lane.advance(node)
    use = lane.use(first)
    assert torch.equal(use.x, attached.quantizers.a0(network.inputs))  # type: ignore[union-attr]
    assert (use.kernel, use.groups) == ((6, 3, 3, 3), 1)
    assert (first.node.target, layers[-1].node.target) == (F.conv2d, F.linear)


@pytest.mark.parametrize(
    ("text", "channels"),
    [
        pytest.param(CHAIN, 4 + 4, id="chain"),  # what Relu takes and gives
        pytest.param(RESIDUAL, 4 + 4 + 4, id="residual"),  # what Add takes, both, and gives
    ],
)
@pytest.mark.parametrize("samples", [1, 5])
def test_live_bytes_are_those_of_the_widest_place(
    rng: np.random.Generator, text: str, channels: int, samples: int
) -> None:
    """Neither weights count nor copies that quantizers would make."""
    shapes = SHAPES | ({"w2": (4, 4, 1, 1)} if text is RESIDUAL else {})
    network = network_of(text, shaped(rng, shapes), rng.normal(size=(samples, 2, 6, 6)))
    assert live_bytes(network.attached, [network.inputs]) == samples * channels * 36 * 4
