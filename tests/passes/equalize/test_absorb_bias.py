from __future__ import annotations

import logging

import numpy as np
import onnx_ir as ir
import pytest
from channels import feeds_of, names_of, statistics_of
from compare import assert_equivalent, run_onnx
from onnx_text import parse

from mpqtool.passes import pipelines
from mpqtool.passes.equalize import AbsorbBiasPass, ChannelStatistics, absorbable_values
from mpqtool.passes.errors import PassError
from mpqtool.passes.values import array

RELATIVE = 1e-5
"""The number that is moved is rounded to float32 in both biases, and sums of some hundred products run over
other numbers; as a part of the largest number of the output."""

_PAIR = "net (float[n,3,6,6] x) => (float[n,4,h,k] y) { t = Conv(x, w, b) r = Relu(t) y = Conv(r, v, c) }"
_POOL = "p = Relu(t) r = AveragePool<kernel_shape=[2,2], pads=[1,1,0,0]>(p)"
_TEXTS = {
    "conv": _PAIR,
    "groups": _PAIR.replace("Conv(r", "Conv<group=2>(r"),
    "no-bias-behind": _PAIR.replace("v, c", "v"),
    "leaky": _PAIR.replace("Relu(t)", "LeakyRelu<alpha=0.3>(t)"),
    "max-pool": _PAIR.replace(
        "r = Relu(t)", "p = MaxPool<kernel_shape=[2,2], pads=[1,1,0,0]>(t) r = Relu(p)"
    ),
    "average-pool": _PAIR.replace("r = Relu(t)", _POOL),
    "flatten": "net (float[n,3,6,6] x) => (float[n,4] y) "
    "{ t = Conv(x, w, b) r = Relu(t) f = Flatten(r) y = Gemm<transB=1>(f, v, c) }",
    "padded-before": _PAIR.replace("Conv(x", "Conv<pads=[1,1,1,1]>(x"),
}  # fmt: skip
_SHAPES = {"groups": (4, 2, 2, 2), "flatten": (4, 64)}


def _parse(name: str) -> ir.Model:
    """Two channels that are always above 0, one that sometimes is, one that never is."""
    rng = np.random.default_rng(0)
    weights = {
        "w": rng.normal(size=(4, 3, 3, 3)) * 0.1,
        "b": [5.0, 0.1, 20.0, -7.0],
        "v": rng.normal(size=_SHAPES.get(name, (4, 4, 2, 2))),
        "c": rng.normal(size=4),
        "zero": 0.0,
        "two": 2.0,
    }
    return parse(_TEXTS.get(name, name), weights)


def _assert_same(before: ir.Model, after: ir.Model, *, seed: int = 1) -> None:
    feeds = feeds_of(before, seed=seed)
    wanted, found = run_onnx(before, feeds), run_onnx(after, feeds)
    assert_equivalent(wanted, found, rtol=0, atol=RELATIVE * float(np.abs(wanted["y"]).max()))


@pytest.mark.parametrize("name", _TEXTS)
def test_moves_what_a_channel_always_has(name: str) -> None:
    model = _parse(name)
    before = model.clone()
    statistics = statistics_of(model, feeds_of(model))
    mean, std, minimum = statistics["t"]
    c = np.maximum(np.minimum(mean - 3 * std, minimum), 0)
    assert [*(c > 0)] == [True, False, True, False]

    result = AbsorbBiasPass(statistics)(model)

    assert result.modified
    old, new = (array(m.graph.initializers["b"]) for m in (before, model))
    np.testing.assert_allclose(new, old - c, rtol=1e-6)  # float32
    _assert_same(before, model)
    after = statistics_of(model, feeds_of(model))["t"].mean
    np.testing.assert_allclose(after, mean - c, rtol=1e-4)  # float32 numbers of 20, and means of 5
    assert not (set(names_of(model)) - set(names_of(before)) - {"v_bias"})


def test_not_more_than_the_minimum_is_moved() -> None:
    """A channel of two values has a mean far above 3 deviations, but its lower value is what can be moved."""
    model = _parse("conv")
    zeros = np.zeros(4)
    statistics = {"t": ChannelStatistics(zeros + 5, zeros + 0.1, np.array([1.0, -2.0, 9.0, 0.0]))}

    AbsorbBiasPass(statistics)(model)

    np.testing.assert_allclose(array(model.graph.initializers["b"]), [4.0, 0.1, 15.3, -7.0], rtol=1e-6)


def test_on_other_data_an_output_is_off_by_what_falls_below() -> None:
    """A control: more than the channel always has is not the same function."""
    model = _parse("conv")
    zeros = np.zeros(4)
    wrong = {"t": ChannelStatistics(zeros + 5, zeros, zeros + 5)}

    with pytest.raises(AssertionError, match="Not equal to tolerance"):
        _assert_same(model, pipelines.absorb_bias(model, wrong))


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        pytest.param(
            _PAIR.replace("Conv(r", "Conv<pads=[1,0,0,0]>(r"), "the layer behind pads with zeros", id="padded"
        ),
        pytest.param(
            _PAIR.replace("r = Relu(t)", _POOL.replace("pads", "count_include_pad=1, pads")),
            "AveragePool behind does not keep a shift",
            id="pool-counts-padding",
        ),
        pytest.param(
            _PAIR.replace("Relu(t)", "Mul(t, two)"), "Mul behind does not keep a shift", id="factor"
        ),
        pytest.param(
            _PAIR.replace("Relu(t)", "Clip(t, zero, two)"), "Clip behind does not keep a shift", id="clip"
        ),
        pytest.param(_PAIR.replace("Relu(t)", "Sigmoid(t)"), "Sigmoid follows", id="sigmoid"),
        pytest.param(_PAIR, "no statistics are given", id="no-statistics"),
    ],
)
def test_leaves_alone(text: str, reason: str, caplog: pytest.LogCaptureFixture) -> None:
    model = _parse(text)
    ones = np.ones(4)
    name = "t" if "no statistics" not in reason else "another"

    with caplog.at_level(logging.INFO):
        result = AbsorbBiasPass({name: ChannelStatistics(5 * ones, ones, ones)})(model)

    assert not result.modified
    assert reason in caplog.text
    assert ("t" in absorbable_values(model)) is (text == _PAIR)


def test_numbers_that_are_none_move_nothing() -> None:
    numbers = np.array([np.nan, 1.0, np.inf, 1.0])

    assert not AbsorbBiasPass({"t": ChannelStatistics(numbers, np.ones(4), numbers)})(_parse("conv")).modified


def test_statistics_of_another_shape_are_refused() -> None:
    ones = np.ones(3)
    with pytest.raises(PassError, match=r"statistics of 't': their shape is \[3\], allowed is \[4\]"):
        pipelines.absorb_bias(_parse("conv"), {"t": ChannelStatistics(ones, ones, ones)})
