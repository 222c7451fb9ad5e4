"""What the outputs of a network hang on, and ranges of activations that are fitted to it."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from graphs import normal
from torch import Tensor, fx

from mpqtool.importer import import_graph
from mpqtool.methods.gradients import Reached, _drawn, few_samples, output_gradients, weighted_values
from mpqtool.passes.place import place
from mpqtool.passes.plan import Grid
from mpqtool.quantizers.attach import attach
from mpqtool.quantizers.ranges import fit_codes

_LINEAR = "h = Gemm <transB = 1> (x, w) y = Gemm <transB = 1> (h, v)"
_LARGEST = "c = Conv (x, k) m = GlobalMaxPool (c) f = Flatten (m) y = Gemm <transB = 1> (f, v)"


def _network(text: str, weights: dict[str, np.ndarray]) -> fx.GraphModule:
    model = normal(text, weights)
    return attach(import_graph(model), place(model, weight_bits=8, activation_bits=8, grid=Grid.FULL)).eval()


def _linear(rng: np.random.Generator) -> tuple[fx.GraphModule, np.ndarray, np.ndarray]:
    w, v = rng.normal(size=(6, 5)), rng.normal(size=(3, 6))
    return _network(f"net (float[N, 5] x) => (float[N, 3] y) {{ {_LINEAR} }}", {"w": w, "v": v}), w, v


def test_squared_gradients_are_the_diagonal_of_the_outputs_jacobian(rng: np.random.Generator) -> None:
    network, w, v = _linear(rng)
    x = rng.normal(size=(4, 5)).astype(np.float32)
    draws = [
        draw for seed in range(200) for draw in output_gradients(network, [(torch.tensor(x),)], seed=seed)
    ]
    squares = torch.stack([draw["h"].gradient.square() for draw in draws]).mean(0)
    y = x @ w.T @ v.T
    wanted = np.broadcast_to(np.square(v).sum(0), (4, 6)) / np.square(y).sum()
    np.testing.assert_allclose(squares.numpy(), wanted, rtol=0.3)
    assert [draws[0][name].rows for name in ("h", "w")] == [4, 1]


def _largest(rng: np.random.Generator) -> tuple[fx.GraphModule, Tensor]:
    """A network that takes the largest of many positions, and inputs of which few are large."""
    text = f"net (float[N, 1, 32, 32] x) => (float[N, 2] y) {{ {_LARGEST} }}"
    network = _network(text, {"k": np.ones((1, 1, 1, 1)), "v": np.array([[1.0], [-2.0]])})
    x = rng.normal(size=(16, 1, 32, 32))
    x[:, 0, 3, 4] = rng.uniform(8, 9, 16)
    return network, torch.from_numpy(x.astype(np.float32))


def test_only_what_wins_a_maximum_counts(rng: np.random.Generator) -> None:
    network, x = _largest(rng)
    found = weighted_values(network, [(part,) for part in x.split(4)])["c"]
    assert len(found.values) == len(found.weights) > 1000
    assert found.values.min() > 7.9
    assert found.values.max() < 9.1


def test_ranges_reach_what_the_outputs_hang_on(rng: np.random.Generator) -> None:
    network, x = _largest(rng)
    found = weighted_values(network, [(x,)])["c"]
    c = x.numpy().max((2, 3))
    # One of 1,024 elements is large: the others have more of the squared error.
    errors = [
        np.square(_coded(c, *fit) - c).mean()
        for fit in (
            fit_codes(x.numpy(), 3, nonnegative=False),
            fit_codes(found.values, 3, nonnegative=False, weights=found.weights),
        )
    ]
    assert errors[0] > 9
    assert errors[1] < 1


def _coded(x: np.ndarray, scale: float, zero_point: int) -> np.ndarray:
    """What 3 bits make of values."""
    return (np.rint(x / scale).clip(-zero_point, 7 - zero_point)) * scale


def test_the_weighted_error_is_that_of_all_elements(rng: np.random.Generator) -> None:
    network, _, _ = _linear(rng)
    x = rng.normal(size=(500, 5)).astype(np.float32) ** 3
    found = weighted_values(network, [(torch.tensor(x),)])["h"]
    draws = [draw["h"] for draw in output_gradients(network, [(torch.tensor(x),)], seed=0)]
    whole = sum(
        float((d.gradient.double().square() * (d.real - d.real.round()).square()).sum()) for d in draws
    )
    drawn = float(found.weights @ np.square(found.values - np.rint(found.values)))
    assert drawn == pytest.approx(whole, rel=0.05)
    assert len(found.values) == 2**14


def test_what_is_next_to_weightless_is_not_drawn() -> None:
    x = torch.cat([torch.randn(10_000, generator=torch.Generator().manual_seed(0)), torch.tensor([1e4])])
    gradient = torch.ones(10_001)
    gradient[-1] = 1e-12
    found = _drawn(Reached(x, gradient, 1), 4096, np.random.default_rng(0))
    assert found is not None
    assert found.values.max() < 10
    gradient[-1] = float("inf")
    found = _drawn(Reached(x, gradient, 1), 4096, np.random.default_rng(0))
    assert found is not None
    assert np.isfinite(found.weights).all()
    assert _drawn(Reached(x, torch.zeros(10_001), 1), 4096, np.random.default_rng(0)) is None


def test_few_samples_come_in_small_parts(rng: np.random.Generator) -> None:
    network, _, _ = _linear(rng)
    parts = few_samples(network, [(torch.zeros(32, 5),), (torch.zeros(32, 5),), (torch.zeros(32, 5),)])
    assert [len(part[0]) for part in parts] == [8] * 8
