from __future__ import annotations

import math

import numpy as np
import torch
from numpy.typing import NDArray
from onnx_text import parse
from torch import Tensor, fx

from mpqtool.importer import import_graph
from mpqtool.methods.scratch import draw_anew
from mpqtool.passes.pipelines import normalize

_TEXT = """
    net (float[N, 16, 6, 6] x, float[N, 20, 8] s, float[N, 8, 4] q)
        => (float[N, 1] y, float[N, 20, 4] z, float[N, 24, 6, 6] t) {
        c0 = Conv <pads = [1, 1, 1, 1]> (x, dense, dense_bias)
        b0 = BatchNormalization (c0, gamma, beta, mean, variance)
        c1 = Conv <pads = [1, 1, 1, 1], group = 24> (b0, depthwise)
        r1 = PRelu (c1, slope)
        t = Conv <group = 24> (r1, single)
        p = GlobalAveragePool (t)
        f = Flatten (p)
        y = Gemm <transB = 1> (f, last, last_bias)
        e = Add (s, position)
        m = MatMul (e, projection)
        n = Mul (m, m)
        z = MatMul (n, q)
    }
"""
_SHAPES = {
    "dense": (24, 16, 3, 3), "dense_bias": (24,), "gamma": (24,), "beta": (24,), "mean": (24,),
    "variance": (24,), "depthwise": (24, 1, 3, 3), "slope": (24, 1, 1), "single": (24, 1, 1, 1),
    "last": (1, 24), "last_bias": (1,), "position": (20, 8), "projection": (8, 8),
}  # fmt: skip


def _weights() -> dict[str, NDArray[np.float64]]:
    rng = np.random.default_rng(0)
    return {name: rng.uniform(3, 4, shape) for name, shape in _SHAPES.items()}


def _network() -> fx.GraphModule:
    return import_graph(normalize(parse(_TEXT, _weights())))


def _tensors(network: fx.GraphModule) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in network.state_dict().items()}


def test_nothing_that_was_learned_is_left() -> None:
    network, fresh = _network(), _network()
    kept = draw_anew(fresh, seed=0)
    before, after = _tensors(network), _tensors(fresh)
    changed = {name for name in after if not torch.equal(before[name], after[name])}
    assert {"mean", "variance"} <= after.keys()
    assert kept == ["slope"]
    # Statistics are no parameters: they are those of the data, which whoever draws takes anew.
    assert changed == set(after) - {"slope", "mean", "variance"}
    for name in ("dense_bias", "beta", "last_bias"):
        assert not after[name].any()
    assert torch.equal(after["gamma"], torch.ones(24))


def test_numbers_have_the_variance_of_he() -> None:
    fresh = _network()
    draw_anew(fresh, seed=3)
    after = _tensors(fresh)
    for name, inputs in {"dense": 16 * 9, "depthwise": 9, "projection": 8, "position": 8}.items():
        numbers = after[name].double().flatten()
        # Four deviations of what so many normal numbers give.
        few = 4 / math.sqrt(2 * len(numbers))
        assert abs(float(numbers.std()) / math.sqrt(2 / inputs) - 1) < few, name
        assert abs(float(numbers.mean())) < 4 * math.sqrt(2 / inputs / len(numbers)), name
    assert float(after["single"].abs().max()) > 1  # one input, so a deviation of 1.4
    assert float(after["last"].abs().max()) < 4 * math.sqrt(2 / 24)


def test_the_seed_says_which_numbers() -> None:
    networks = [_network() for _ in range(3)]
    for network, seed in zip(networks, (7, 7, 8), strict=True):
        draw_anew(network, seed=seed)
    one, same, other = map(_tensors, networks)
    assert all(torch.equal(one[name], same[name]) for name in one)
    assert not torch.equal(one["dense"], other["dense"])
    assert not torch.equal(one["dense"].flatten()[:64], one["projection"].flatten())
