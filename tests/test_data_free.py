"""Inputs that are made from a network alone."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest
import torch
from onnx_text import parse
from torch import fx

from mpqtool.data_free import _Statistics, has_statistics, synthesize
from mpqtool.errors import DataError
from mpqtool.importer import import_graph
from mpqtool.methods.batch_norm import reestimate
from mpqtool.passes.pipelines import normalize

CNN = """net (float[N, 2, 6, 6] x) => (float[N, 3] y) {
    c = Conv <pads = [1, 1, 1, 1]> (x, w)
    b = BatchNormalization (c, s, t, m, v)
    r = Relu (b)
    d = Conv (r, u)
    e = BatchNormalization (d, s, t, n, z)
    g = GlobalAveragePool (e)
    y = Flatten (g)
}"""


def _model(text: str = CNN) -> ir.Model:
    rng = np.random.default_rng(1)
    weights = {"w": rng.normal(size=(3, 2, 3, 3)), "u": rng.normal(size=(3, 3, 3, 3))}
    numbers = {
        "s": [1, 0.5, 2],
        "t": [0, 1, -1],
        "m": [3, -2, 40],
        "v": [90, 4, 30],
        "n": [5, 9, -4],
        "z": [60, 20, 9],
    }
    tensors = weights | {name: np.array(values) for name, values in numbers.items()}
    return normalize(parse(text, {name: array.astype(np.float32) for name, array in tensors.items()}))


@torch.no_grad()
def _distances(network: fx.GraphModule, x: np.ndarray) -> list[float]:
    watcher = _Statistics(network.eval())
    watcher.run(torch.from_numpy(x))
    return [float(distance) for distance in watcher.distances]


def test_statistics_are_far_closer_than_those_of_noise(rng: np.random.Generator) -> None:
    model = _model()
    network = import_graph(model)
    assert has_statistics(network)
    data = rng.normal(loc=[[[2]], [[-1]]], scale=[[[3]], [[0.5]]], size=(500, 2, 6, 6)).astype(np.float32)
    data += rng.normal(scale=2, size=(500, 2, 1, 1)).astype(np.float32)  # pixels are alike
    reestimate(network, [(torch.from_numpy(data),)])
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    told = list[int]()

    made = synthesize(network, model.graph.inputs, 40, on_samples=told.append)

    assert made["x"].shape == (40, 2, 6, 6)
    assert made["x"].dtype == np.float32
    assert told == [32, 8]
    assert network.training
    assert all(torch.equal(before[name], tensor) for name, tensor in network.state_dict().items())
    assert all(p.grad is None for p in network.parameters())
    noise = rng.normal(size=(40, 2, 6, 6)).astype(np.float32)
    found = zip(_distances(network, made["x"]), _distances(network, noise), strict=True)
    assert all(close < 0.1 * far for close, far in found)


def test_the_seed_decides(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mpqtool.data_free._STEPS", 10)
    model = _model()
    network = import_graph(model)
    first, again, other = (synthesize(network, model.graph.inputs, 5, seed=s)["x"] for s in (3, 3, 4))
    np.testing.assert_array_equal(first, again)
    assert not np.isclose(first, other).any(axis=(1, 2, 3)).all()


def test_a_network_without_statistics_gets_noise_for_each_input_and_its_batch() -> None:
    model = normalize(parse("net (float[4, 500] a, float[4, 500] b) => (float[4, 500] y) { y = Add (a, b) }"))
    network = import_graph(model)
    assert not has_statistics(network)

    made = synthesize(network, model.graph.inputs, 6)

    assert list(made) == ["a", "b"]
    assert made["a"].shape == (6, 500)
    assert not np.isclose(made["a"], made["b"]).all()
    assert made["a"].std() == pytest.approx(1, abs=0.1)  # 3000 numbers


def test_an_input_that_reaches_no_statistics_stays_noise(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mpqtool.data_free._STEPS", 2)
    text = CNN.replace("x) =>", "x, float[N, 3] k) =>").replace(
        "y = Flatten (g)", "f = Flatten (g) y = Add (f, k)"
    )
    model = _model(text)
    made = synthesize(import_graph(model), model.graph.inputs, 64)
    assert made["k"].shape == (64, 3)
    assert made["k"].std() == pytest.approx(1, abs=0.2)  # 192 numbers


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("int64[N, 3] x", r"Input 'x' is int64, .* Give samples with --data"),
        ("bool[N, 3] x", r"Input 'x' is bool"),
        ("float[N, 3, H] x", r"Input 'x' has the shape N x 3 x H, .* every size but the first"),
    ],
)
def test_what_cannot_be_made_is_refused(text: str, message: str) -> None:
    model = parse(f"net ({text}) => (int64[K] y) {{ y = Shape (x) }}")
    with pytest.raises(DataError, match=message):
        synthesize(import_graph(_model()), model.graph.inputs, 2)


def test_a_network_that_noise_blows_up_is_refused() -> None:
    model = _model(CNN.replace("c = Conv <pads = [1, 1, 1, 1]> (x, w)", "l = Log (x) c = Conv (l, w)"))
    with pytest.raises(DataError, match="infinite or NaN on noise"):
        synthesize(import_graph(model), model.graph.inputs, 2)
