from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest
from compare import run_onnx
from graphs import calibrated, normal
from targets import Arrays, check, qdq_and_feeds

from mpqtool.passes import pipelines
from mpqtool.passes.lower import sums
from mpqtool.passes.plan import Grid
from mpqtool.passes.values import array, bypass, is_op, set_array
from mpqtool.runtime.reference import Reference
from mpqtool.runtime.session import LEVELS


def _decimal(model: ir.Model) -> None:
    """Scales of which many products lie halfway between two codes."""
    for name, value in model.graph.initializers.items():
        if name.endswith(".scale") and not name.startswith("b"):
            shape = array(value).shape
            set_array(value, np.full(shape, 0.01 if name.startswith("w") else 0.1, np.float32))


def test_without_the_round_the_multiplier_is_folded_into_the_weights(rng: np.random.Generator) -> None:
    """What the Round behind a Conv is for: it changes no integer, and keeps the Mul out of the weights."""
    qdq, feeds = qdq_and_feeds(rng, "residual", weight_bits=8, grid=Grid.SIGNED)
    _decimal(qdq)
    feeds = {"x": rng.normal(size=(64, 2, 8, 8)).astype(np.float32) * 4}
    model = pipelines.lower(qdq, target="cuda")
    expected = Reference(pipelines.lower(qdq)).run(feeds)["r0.codes"]
    found = run_onnx(model, feeds, level="all", expose=["r0.codes"])["r0.codes"]
    np.testing.assert_array_equal(found, expected)

    for node in list(model.graph):
        if is_op(node, "Round") and is_op(node.inputs[0].producer(), "Conv"):
            assert bypass(node)

    at = {level: run_onnx(model, feeds, level=level, expose=["r0.codes"])["r0.codes"] for level in LEVELS}
    np.testing.assert_array_equal(at["disabled"], expected)
    assert (at["basic"] != expected).any()


def _long_gemm(rng: np.random.Generator, features: int) -> tuple[ir.Model, Arrays]:
    """Real results straight from accumulators of up to 32 million."""
    text = f"net (float[N, {features}] x) => (float[N, 2] y) {{ y = Gemm <transB = 1> (x, w) }}"
    model = normal(text, {"w": rng.uniform(0.9, 1.0, size=(2, features)).astype(np.float32)})
    feeds: Arrays = {"x": rng.uniform(0.8, 1, size=(16, features)).astype(np.float32)}
    plan = calibrated(model, feeds, weight_bits=8, activation_bits=8, grid=Grid.SIGNED)
    return pipelines.quantize(model, plan), feeds


@pytest.mark.parametrize("features", [600, 1000, 1700])
def test_long_sums_are_exact(rng: np.random.Generator, features: int) -> None:
    qdq, feeds = _long_gemm(rng, features)
    ops = [node.op_type for node in pipelines.lower(qdq, target="cuda").graph]
    assert ops.count("Gemm") > 1
    check(qdq, feeds)


def test_without_the_split_long_sums_are_rounded(
    rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    qdq, feeds = _long_gemm(rng, 1700)
    monkeypatch.setattr(sums, "EXACT_BELOW", 2**40)

    found = run_onnx(pipelines.lower(qdq, target="cuda"), feeds)["y"]

    assert (found != Reference(pipelines.lower(qdq)).run(feeds)["y"]).any()


def _wide(
    rng: np.random.Generator, channels: int, *, group: int = 1, bias: float = 0.0
) -> tuple[ir.Model, Arrays]:
    """A Conv with large weights of one sign, whose sums can leave 2**24 from some 58 channels on."""
    text = f"""
    net (float[N, {channels * group}, 5, 5] x) => (float[N, {group}, 1, 1] p) {{
        c = Conv <pads = [1, 1, 1, 1], group = {group}> (x, w, b)
        p = GlobalAveragePool (c)
    }}
    """
    weights = {
        "w": rng.uniform(0.9, 1.0, size=(group, channels, 3, 3)).astype(np.float32),
        "b": np.full(group, bias, np.float32),
    }
    feeds: Arrays = {"x": rng.uniform(0, 1, size=(4, channels * group, 5, 5)).astype(np.float32)}
    model = normal(text, weights)
    plan = calibrated(model, feeds, weight_bits=8, activation_bits=8, grid=Grid.SIGNED)
    return pipelines.quantize(model, plan), feeds


@pytest.mark.parametrize(
    ("channels", "group", "bias", "convolutions", "in_double"),
    [
        pytest.param(40, 1, 0.1, 1, False, id="fits"),
        pytest.param(100, 1, 0.1, 2, False, id="two-parts"),
        pytest.param(150, 1, 0.1, 3, True, id="three-parts"),
        pytest.param(70, 2, 0.1, 2, False, id="grouped"),
        pytest.param(40, 1, 2000.0, 1, True, id="large-bias"),
    ],
)
def test_sums_that_leave_float32_are_split(
    rng: np.random.Generator, channels: int, group: int, bias: float, convolutions: int, in_double: bool
) -> None:
    qdq, feeds = _wide(rng, channels, group=group, bias=bias)
    model = pipelines.lower(qdq, target="cuda")
    ops = [node.op_type for node in model.graph]
    casts = [node for node in model.graph if node.op_type == "Cast"]

    assert ops.count("Conv") == convolutions
    assert any(node.outputs[0].dtype is ir.DataType.DOUBLE for node in casts) is in_double
    check(qdq, feeds)


@pytest.mark.parametrize(
    ("bounds", "extra", "expected"),
    [
        pytest.param([[4, 4, 4]], [3], [range(3)], id="just-fits"),
        pytest.param([[4, 4, 4]], [4], [range(2), range(2, 3)], id="with-the-bias-it-does-not"),
        pytest.param([[9, 1, 1], [1, 9, 9]], [0, 0], [range(2), range(2, 3)], id="every-kernel-counts"),
        pytest.param([[16, 1]], [0], None, id="one-channel-is-too-much"),
        pytest.param([[4, 16]], [0], None, id="a-later-one"),
        pytest.param([[4, 4]], [15], None, id="the-bias-is-too-much"),
    ],
)
def test_channels_are_split_where_a_sum_could_reach_the_limit(
    monkeypatch: pytest.MonkeyPatch, bounds: list[list[int]], extra: list[int], expected: list[range] | None
) -> None:
    monkeypatch.setattr(sums, "EXACT_BELOW", 16)
    assert sums.parts(np.array(bounds), np.array(extra)) == expected
