from __future__ import annotations

import logging
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest
from channels import feeds_of, maxima_of, names_of
from compare import assert_equivalent, run_onnx
from numpy.typing import NDArray
from onnx_text import ops, parse

from mpqtool.passes import pipelines
from mpqtool.passes.equalize import RescaleDepthwisePass, depthwise_rescaling
from mpqtool.passes.values import array

RELATIVE = 1e-5
"""Each weight and product is rounded once more to float32, 6e-8; sums of some ten of them, as a part of the
largest number of the output."""

_RELU = (
    "net (float[n,5,6,6] x) => (float[n,3,6,6] y) "
    "{ t = Conv<group=5, pads=[1,1,1,1]>(x, w, b) r = Relu(t) y = Conv(r, v, c) }"
)
_SIX = _RELU.replace("Relu(t)", "Clip(t, zero, six)")
_NONE = _RELU.replace("Relu", "Identity")
_SIZES = np.array([0.2, 3.0, 0.0, 0.05, 0.7])
"""Of the kernels; one is zero. The lower median of the others is 0.2."""


def _parse(text: str = _RELU, **changes: Any) -> ir.Model:
    rng = np.random.default_rng(0)
    w = rng.normal(size=(5, 1, 3, 3))
    w *= (_SIZES / np.abs(w).max(axis=(1, 2, 3)))[:, None, None, None]
    weights = {
        "w": w,
        "b": rng.normal(size=5) * 0.1,
        "v": rng.normal(size=(3, 5, 1, 1)),
        "c": rng.normal(size=3),
    }
    return parse(text, weights | {"zero": 0.0, "six": 6.0} | changes)


def _factors(before: ir.Model, after: ir.Model) -> NDArray[Any]:
    """What the results of the first layer are multiplied by."""
    old, new = (array(model.graph.initializers["b"]) for model in (before, after))
    return np.asarray(new / old)


def _assert_same(before: ir.Model, after: ir.Model) -> None:
    feeds = feeds_of(before)
    wanted, found = run_onnx(before, feeds), run_onnx(after, feeds)
    assert_equivalent(wanted, found, rtol=0, atol=RELATIVE * float(np.abs(wanted["y"]).max()))


@pytest.mark.parametrize("text", [_RELU, _NONE], ids=["relu", "nothing"])
def test_all_kernels_get_the_median(text: str) -> None:
    model = _parse(text)
    before = model.clone()
    g = np.array([1, 0.2 / 3, 1, 4, 0.2 / 0.7])

    result = RescaleDepthwisePass()(model)

    assert result.modified
    assert ops(model) == ops(before)
    assert names_of(model) == names_of(before)
    old, new = (
        {name: array(m.graph.initializers[name]) for name in ("w", "b", "v", "c")} for m in (before, model)
    )
    np.testing.assert_allclose(np.abs(new["w"]).max(axis=(1, 2, 3)), [0.2, 0.2, 0, 0.2, 0.2], rtol=1e-6)
    np.testing.assert_allclose(new["b"], old["b"] * g, rtol=1e-6)  # float32
    np.testing.assert_allclose(new["v"], old["v"] / g[None, :, None, None], rtol=1e-6)
    np.testing.assert_array_equal(new["c"], old["c"])
    _assert_same(before, model)


def test_channels_that_relu6_cuts_or_would_are_locked() -> None:
    """g = 1, 1/15, 1, 4, 2/7: channel 1 is cut, channel 3 would be, and channel 4 is not."""
    biases = [0.1, 5.0, 0.1, 1.6, 0.2]
    model = _parse(_SIX, b=biases)
    before = model.clone()
    maxima = maxima_of(model, feeds_of(model))
    assert maxima["r"][1] == 6
    assert 6 / 4 < maxima["r"][3] < 5.9

    assert depthwise_rescaling(model, maxima) == (1, 5, 1, 2)  # layers, channels, rescaled, locked

    RescaleDepthwisePass(maxima)(model)

    np.testing.assert_allclose(_factors(before, model), [1, 1, 1, 1, 0.2 / 0.7], rtol=1e-6)  # float32
    _assert_same(before, model)


def test_just_below_the_ceiling_counts_as_cut() -> None:
    maxima = {"r": np.array([1, 5.95, 1, 1, 5.85])}

    after = pipelines.rescale_depthwise(_parse(_SIX), maxima)

    np.testing.assert_allclose(_factors(_parse(_SIX), after), [1, 1, 1, 4, 0.2 / 0.7], rtol=1e-6)  # float32


def test_without_the_lock_the_outputs_would_change() -> None:
    """A control."""
    model = _parse(_SIX, b=[0.1, 5.0, 0.1, 1.6, 0.2])
    wrong = {"r": np.zeros(5)}

    with pytest.raises(AssertionError, match="Not equal to tolerance"):
        _assert_same(model, pipelines.rescale_depthwise(model, wrong))


@pytest.mark.parametrize("bias", [[0.1] * 5, [0.1, 5.0, 0.1, 1.6, 0.2]], ids=["free", "locked"])
def test_second_run_changes_nothing(bias: list[float]) -> None:
    model = _parse(_SIX, b=bias)
    feeds = feeds_of(model)
    assert RescaleDepthwisePass(maxima_of(model, feeds))(model).modified

    assert not RescaleDepthwisePass(maxima_of(model, feeds))(model).modified


def test_relu6_without_maxima_is_left_alone(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        assert not RescaleDepthwisePass()(_parse(_SIX)).modified
    assert depthwise_rescaling(_parse(_SIX), {}).layers == 0

    assert "Left 1 layers alone, as no maxima of the Clip behind are given: t" in caplog.text


@pytest.mark.parametrize(
    ("text", "changes"),
    [
        pytest.param(
            _RELU.replace("Conv(r", "Conv<pads=[1,1,1,1]>(r"), {"v": np.ones((3, 5, 3, 3))}, id="not-1x1"
        ),
        pytest.param(
            _RELU.replace("<group=5, pads", "<pads"), {"w": np.ones((5, 5, 3, 3))}, id="not-depthwise"
        ),
        pytest.param(_RELU.replace("Relu", "Sigmoid"), {}, id="sigmoid"),
        pytest.param(_RELU, {"w": np.zeros((5, 1, 3, 3))}, id="zeros"),
    ],
)
def test_leaves_alone(text: str, changes: dict[str, Any]) -> None:
    assert not RescaleDepthwisePass()(_parse(text, **changes)).modified
