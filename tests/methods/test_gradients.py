"""What the outputs of a network hang on, and ranges of activations that are fitted to it."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from graphs import normal
from torch import Tensor, fx

from mpqtool.importer import import_graph
from mpqtool.methods.gradients import few_samples, output_gradients, output_histograms
from mpqtool.passes.place import place
from mpqtool.passes.plan import Grid
from mpqtool.quantizers.attach import attach, plain_activations, plain_weights
from mpqtool.quantizers.calibrate import observe, set_ranges

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
    histogram = output_histograms(network, [(part,) for part in x.split(4)])["c"]
    (used,) = np.nonzero(histogram.counts)
    assert 0 < len(used) <= 16
    assert histogram.centers[used].min() > 7.9
    assert histogram.centers[used].max() < 9.1


def test_ranges_reach_what_the_outputs_hang_on(rng: np.random.Generator) -> None:
    network, x = _largest(rng)
    values, parameters = plain_activations(network), dict(network.named_parameters())
    for weight in plain_weights(network):
        weight.fit(parameters[weight.name])
    seen = observe(network, [(x,)], values)
    for name, histogram in output_histograms(network, [(x,)]).items():
        seen[name].weighted = histogram
    quantizer = next(value for value in values if value.name == "c")
    quantizer.bits.fill_(3)  # one of 1,024 elements is large: the others have more of the squared error
    errors = {}
    for rule in ("mse", "fisher"):
        set_ranges(seen, [quantizer], rule)
        with torch.no_grad():
            c = x.amax((2, 3))
            errors[rule] = float((quantizer(c) - c).square().mean())
    assert errors["fisher"] < 1
    assert errors["mse"] > 9


def test_a_value_that_no_output_hangs_on_is_fitted_as_ever(rng: np.random.Generator) -> None:
    network, _, _ = _linear(rng)
    x = torch.zeros(4, 5)
    (value,) = [q for q in plain_activations(network) if q.name == "x"]
    seen = observe(network, [(torch.ones(4, 5),)], [value])
    with pytest.raises(ValueError, match="needs an observer with a weighted histogram"):
        set_ranges(seen, [value], "fisher")
    seen["x"].weighted = output_histograms(network, [(x,)])["x"]
    assert not seen["x"].weighted.counts.any()  # zeros are exact at any scale
    set_ranges(seen, [value], "fisher")
    fitted = float(value.scale.detach())
    set_ranges(seen, [value], "mse")
    assert fitted == float(value.scale.detach())


def test_few_samples_come_in_small_parts(rng: np.random.Generator) -> None:
    network, _, _ = _linear(rng)
    parts = few_samples(network, [(torch.zeros(32, 5),), (torch.zeros(32, 5),), (torch.zeros(32, 5),)])
    assert [len(part[0]) for part in parts] == [8] * 8
