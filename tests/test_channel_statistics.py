from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest
from compare import run_onnx
from graphs import normal

from mpqtool.channel_statistics import channel_maxima, channel_statistics
from mpqtool.errors import ModelError

_TEXT = """
net (float[N, 3, 5, 5] x) => (float[N, 2, 5, 5] y, float[N, 4, 5, 5] r) {
    t = Conv <pads = [1, 1, 1, 1]> (x, w, b)
    r = Clip (t, zero, six)
    u = Conv (r, v, c)
    s = Relu (u)
    y = Conv (s, q)
}
"""


@pytest.fixture
def model(rng: np.random.Generator) -> ir.Model:
    return normal(
        _TEXT,
        {
            "w": rng.normal(size=(4, 3, 3, 3)), "b": np.array([0.0, 50, -50, 5]), "zero": 0.0, "six": 6.0,
            "v": rng.normal(size=(2, 4, 1, 1)), "c": np.array([0.0, 1e4]), "q": rng.normal(size=(2, 2, 1, 1)),
        },
    )  # fmt: skip


@pytest.mark.parametrize("samples", [1, 64, 150])
def test_statistics_do_not_depend_on_batches(model: ir.Model, rng: np.random.Generator, samples: int) -> None:
    feeds = {"x": rng.normal(size=(samples, 3, 5, 5)).astype(np.float32)}

    maxima = channel_maxima(model, ["r", "t"], feeds)
    found = channel_statistics(model, ["u", "r"], feeds)

    values = run_onnx(model, feeds, expose=["t", "u"])
    for name in ("r", "t"):  # a batch of another size may be summed in another order
        np.testing.assert_allclose(maxima[name], values[name].max((0, 2, 3)), rtol=1e-5, atol=1e-5)
    for name in ("u", "r"):
        x = values[name].astype(np.float64)
        np.testing.assert_allclose(found[name].mean, x.mean((0, 2, 3)), rtol=1e-5, atol=1e-5)
        np.testing.assert_allclose(found[name].minimum, x.min((0, 2, 3)), rtol=1e-5, atol=1e-5)
        # Numbers around 1e4 have steps of 1e-3 in float32, and a standard deviation of some units.
        np.testing.assert_allclose(found[name].std, x.std((0, 2, 3)), rtol=1e-3, atol=1e-5)


def test_nothing_asked_is_nothing_measured(model: ir.Model) -> None:
    assert channel_maxima(model, [], {}) == {}


def test_a_value_without_channels_is_refused(rng: np.random.Generator) -> None:
    model = normal("net (float[N, 2] x) => (float[N] y) { y = ReduceSum <keepdims = 0> (x, axes) }", {
        "axes": np.array([1], np.int64)
    })  # fmt: skip
    with pytest.raises(ModelError, match=r"channels of 'y': its shape is \[3\]"):
        channel_maxima(model, ["y"], {"x": np.ones((3, 2), np.float32)})
