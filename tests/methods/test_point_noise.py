"""What quantizing one tensor does to the outputs: by one backward pass, and measured."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from graphs import normal, residual_cnn
from torch import Tensor, fx

from mpqtool.importer import import_graph
from mpqtool.methods import gradients as module
from mpqtool.methods.point_noise import measure_alone, point_noise
from mpqtool.passes.place import place
from mpqtool.passes.plan import Grid
from mpqtool.quantizers.attach import attach, plain_activations, plain_weights
from mpqtool.quantizers.calibrate import observe, set_ranges
from mpqtool.quantizers.ranges import mse

_WIDTHS = (3, 4)


def _quantized(model, x: Tensor, bits: int) -> fx.GraphModule:  # type: ignore[no-untyped-def]
    plan = place(model, weight_bits=bits, activation_bits=bits, grid=Grid.FULL)
    network = attach(import_graph(model), plan).eval()
    parameters = dict(network.named_parameters())
    for weight in plain_weights(network):
        weight.fit(parameters[weight.name])
    values = plain_activations(network)
    for value in values:
        value.bits.fill_(bits)
    set_ranges(observe(network, [(x,)], values), values, "mse")
    return network


def _noise(network: fx.GraphModule, x: Tensor) -> dict[str, dict[int, float]]:
    values = plain_activations(network)
    seen = observe(network, [(x,)], values)
    ranges = {q.name: {b: mse(seen[q.name], b, nonnegative=q.nonnegative) for b in _WIDTHS} for q in values}
    return point_noise(network, [(part,) for part in x.split(8)], ranges, _WIDTHS)


@pytest.mark.parametrize("bits", _WIDTHS)
def test_in_a_linear_network_the_estimate_is_what_is_measured(
    bits: int, monkeypatch: pytest.MonkeyPatch, rng: np.random.Generator
) -> None:
    monkeypatch.setattr(module, "_DRAWS", 150)
    weights = {"w": rng.normal(size=(6, 5)), "v": rng.normal(size=(4, 6)), "b": rng.normal(size=4)}
    layers = "h = Gemm <transB = 1> (x, w) y = Gemm <transB = 1> (h, v, b)"
    model = normal(f"net (float[N, 5] x) => (float[N, 4] y) {{ {layers} }}", weights)
    x = torch.randn(64, 5, generator=torch.Generator().manual_seed(0))
    network = _quantized(model, x, bits)
    estimated, measured = _noise(network, x), measure_alone(network, [(x,)], ["w", "v", "h", "x"])
    for name, share in measured.items():
        assert share > 0
        # 8 batches of 150 draws of one degree of freedom and more: off by 4 % at one standard deviation.
        assert estimated[name][bits] == pytest.approx(share, rel=0.15), name


def test_more_bits_make_less_noise(monkeypatch: pytest.MonkeyPatch, rng: np.random.Generator) -> None:
    monkeypatch.setattr(module, "_DRAWS", 20)
    model = residual_cnn(rng)
    x = torch.randn(32, 2, 8, 8, generator=torch.Generator().manual_seed(0))
    network = _quantized(model, x, 4)
    found = _noise(network, x)
    assert found.keys() == {q.name for q in (*plain_weights(network), *plain_activations(network))}
    # Not of every tensor: 8 weights of a kernel may be luckier at 3 bits than at 4.
    assert sum(row[4] < row[3] for row in found.values()) >= len(found) - 1
    assert sum(row[4] for row in found.values()) < 0.5 * sum(row[3] for row in found.values())


def test_the_network_is_left_as_it_was(rng: np.random.Generator) -> None:
    model = residual_cnn(rng)
    x = torch.randn(8, 2, 8, 8, generator=torch.Generator().manual_seed(0))
    network = _quantized(model, x, 4)
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    _noise(network, x)
    measure_alone(network, [(x,)], ["w1"])
    torch.testing.assert_close(network.state_dict(), before, rtol=0, atol=0, equal_nan=True)
    assert all(parameter.grad is None for parameter in network.parameters())


def test_one_quantizer_works_alone(rng: np.random.Generator) -> None:
    model = residual_cnn(rng)
    x = torch.randn(8, 2, 8, 8, generator=torch.Generator().manual_seed(0))
    network = _quantized(model, x, 3)
    share = measure_alone(network, [(x,)], ["w2"])["w2"]
    reference, only = import_graph(model).eval(), import_graph(model).eval()
    quantizer = next(q for q in plain_weights(network) if q.name == "w2")
    with torch.no_grad():
        dict(only.named_parameters())["w2"].copy_(quantizer(dict(only.named_parameters())["w2"]))
        (wanted,), (found,) = reference(x), only(x)
    assert share == pytest.approx(float((found - wanted).square().sum() / wanted.square().sum()), rel=1e-4)
