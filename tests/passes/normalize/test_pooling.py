from __future__ import annotations

import numpy as np
import pytest
from compare import assert_equivalent, run_onnx
from onnx_text import ops, parse

from mpqtool.passes.normalize import InferShapesPass, RewriteReduceMeanPass


def _mean(keepdims: int = 1, shape: str = "n,3,4,5") -> str:
    out = "a,b,c,d"[: len(shape)] if keepdims else "a,b"
    return f"net (float[{shape}] x) => (float[{out}] y) {{ y = ReduceMean<keepdims={keepdims}>(x, axes) }}"


@pytest.mark.parametrize("axes", [[2, 3], [3, 2], [-1, -2], [2, -1]], ids=str)
@pytest.mark.parametrize(
    ("keepdims", "expected"), [(1, ["GlobalAveragePool"]), (0, ["GlobalAveragePool", "Flatten"])]
)
def test_fires(rng: np.random.Generator, axes: list[int], keepdims: int, expected: list[str]) -> None:
    weights = {"axes": np.array(axes, np.int64)}
    feeds = {"x": rng.normal(size=(2, 3, 4, 5)).astype(np.float32)}
    before = run_onnx(parse(_mean(keepdims), weights), feeds)

    result = RewriteReduceMeanPass()(parse(_mean(keepdims), weights))

    assert result.modified
    assert ops(result.model) == expected
    after = run_onnx(result.model, feeds)
    assert after["y"].shape == before["y"].shape
    assert_equivalent(before, after, rtol=1e-6, atol=1e-6)  # a sum of 20 in another order
    assert not RewriteReduceMeanPass()(result.model).modified


def test_one_spatial_axis_is_a_pool_too() -> None:
    result = RewriteReduceMeanPass()(parse(_mean(shape="n,3,4"), {"axes": np.array([-1])}))
    assert ops(result.model) == ["GlobalAveragePool"]


@pytest.mark.parametrize(
    ("shape", "axes", "keepdims", "expected"),
    [
        pytest.param("n,5,3", [1], 0, ["Transpose", "GlobalAveragePool", "Flatten"], id="tokens"),
        pytest.param("n,5,3", [-2], 1, ["Transpose", "GlobalAveragePool", "Transpose"], id="tokens-kept"),
        pytest.param("n,4,5,3", [1, 2], 0, ["Transpose", "GlobalAveragePool", "Flatten"], id="image"),
        pytest.param("n,4,5,3", [3, 1], 1, ["Transpose", "GlobalAveragePool", "Transpose"], id="middle-kept"),
    ],
)
def test_another_axis_is_brought_to_the_place_of_channels(
    rng: np.random.Generator, shape: str, axes: list[int], keepdims: int, expected: list[str]
) -> None:
    model = parse(_mean(keepdims, shape), {"axes": np.array(axes, np.int64)})
    sizes = [int(size) for size in shape.replace("n", "2").split(",")]
    feeds = {"x": rng.normal(size=sizes).astype(np.float32)}
    before = run_onnx(model, feeds)

    result = RewriteReduceMeanPass()(model)

    assert ops(result.model) == expected
    assert_equivalent(before, run_onnx(result.model, feeds), rtol=1e-6, atol=1e-6)  # another order of the sum
    assert not RewriteReduceMeanPass()(result.model).modified


def test_channels_that_were_put_last_are_taken_from_where_they_were(rng: np.random.Generator) -> None:
    text = """net (float[n,3,4,5] x) => (float[n,4,5,3] t, float[n,3] y) {
        t = Transpose<perm=[0,2,3,1]>(x)  y = ReduceMean<keepdims=0>(t, axes)
    }"""
    model = InferShapesPass()(parse(text, {"axes": np.array([1, 2])})).model
    feeds = {"x": rng.normal(size=(2, 3, 4, 5)).astype(np.float32)}
    before = run_onnx(model, feeds)

    result = RewriteReduceMeanPass()(model)

    assert ops(result.model) == ["Transpose", "GlobalAveragePool", "Flatten"]
    assert result.model.graph[1].inputs[0].name == "x"
    assert_equivalent(before, run_onnx(result.model, feeds), rtol=1e-6, atol=1e-6)  # another order of the sum


@pytest.mark.parametrize(
    ("text", "axes"),
    [
        pytest.param(_mean(), [1], id="other-axes"),
        pytest.param(_mean(), [1, 2, 3], id="channels-too"),
        pytest.param(_mean(), [3], id="one-of-two"),
        pytest.param(_mean(shape="n,3"), [1], id="rank-2"),
        pytest.param(
            _mean().replace("x) =>", "x, int64[2] a) =>").replace("axes", "a"), [1], id="not-constant"
        ),
        pytest.param(
            _mean().replace("{ y", "{ r = Relu(x) y").replace("(x, axes)", "(r, axes)"),
            [2, 3],
            id="rank-unknown",
        ),
    ],
)
def test_leaves_alone(text: str, axes: list[int]) -> None:
    assert not RewriteReduceMeanPass()(parse(text, {"axes": np.array(axes, np.int64)})).modified


def test_the_mean_of_integers_is_rounded() -> None:
    model = parse(
        "net (int32[n,3,4,4] x) => (int32[n,3,1,1] y) { y = ReduceMean(x, a) }", {"a": np.array([2, 3])}
    )
    assert not RewriteReduceMeanPass()(model).modified
