from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from compare import assert_equivalent, run_onnx
from onnx_ir.passes.common import RemoveUnusedNodesPass
from onnx_text import ops, parse

from mpqtool.passes.normalize import FoldConstantsPass
from mpqtool.passes.values import array

_NOISE = """
    net (float[n,2,5,5] x) => (float[n,4,c,d] y) <float zero = {0}, int64[1] one = {1}> {
        s = Shape<start=0, end=1>(w)
        e = Expand(s, one)
        c = CastLike(zero, x)
        b = Expand(c, e)
        y = Conv(x, w, b)
    }
"""


def test_computes_what_torch_writes_for_a_missing_bias(rng: np.random.Generator) -> None:
    weights = {"w": rng.normal(size=(4, 2, 3, 3))}
    feeds = {"x": rng.normal(size=(1, 2, 5, 5)).astype(np.float32)}
    before = run_onnx(parse(_NOISE, weights), feeds)
    model = parse(_NOISE, weights)

    result = FoldConstantsPass()(model)

    assert result.modified
    RemoveUnusedNodesPass()(model)
    assert ops(model) == ["Conv"]
    np.testing.assert_array_equal(array(model.graph[0].inputs[2]), np.zeros(4, np.float32))
    assert_equivalent(before, run_onnx(model, feeds), rtol=0, atol=0)


def test_computes_large_constants() -> None:
    text = """net (float[n] x) => (float[n] y) <int64[1] size = {300000}>
        { c = ConstantOfShape<value = float[1] {2.0}>(size) r = ReduceMax(c) y = Mul(x, r) }"""
    model = parse(text)
    FoldConstantsPass()(model)
    RemoveUnusedNodesPass()(model)
    assert ops(model) == ["Mul"]


@pytest.mark.parametrize(
    ("text", "weights", "kept"),
    [
        pytest.param(
            "net (float[n,2,5,5] x) => (float[n,4,c,d] y) "
            "{ t = Conv(x, w) y = BatchNormalization(t, g, g, g, g) }",
            {"w": np.ones((4, 2, 3, 3)), "g": np.ones(4)},
            "BatchNormalization",
            id="batch-norm",
        ),
        pytest.param(
            "net (float[n,3] x) => (float[n,4] y) { t = Transpose(w) y = MatMul(x, t) }",
            {"w": np.ones((4, 3))},
            "Transpose",
            id="transposed-weight",
        ),
        pytest.param(
            "net (float[n,3] x) => (float[n,3] y) { t = DequantizeLinear(q, s) y = Mul(x, t) }",
            {"q": np.ones(3, np.int8), "s": np.float64(0.5)},
            "DequantizeLinear",
            id="dequantized-weight",
        ),
        pytest.param(
            "net (float[n,3] x, float[3] c) => (float[n,3] y) { t = Abs(c) y = Mul(x, t) }",
            {"c": np.ones(3)},
            "Abs",
            id="default-of-an-input",
        ),
    ],
)
def test_leaves_alone(text: str, weights: dict[str, Any], kept: str) -> None:
    model = parse(text, weights)
    assert not FoldConstantsPass()(model).modified
    assert kept in ops(model)


def test_equal_weights_stay_two() -> None:
    text = """net (float[n,2,5,5] x) => (float[n,2,5,5] y) { t = Conv(x, a) y = Conv(t, b) }"""
    model = parse(text, {"a": np.ones((2, 2, 1, 1)), "b": np.ones((2, 2, 1, 1))})
    FoldConstantsPass()(model)
    assert set(model.graph.initializers) == {"a", "b"}


def test_second_run_changes_nothing() -> None:
    model = parse(_NOISE, {"w": np.ones((4, 2, 3, 3))})
    FoldConstantsPass()(model)
    RemoveUnusedNodesPass()(model)
    assert not FoldConstantsPass()(model).modified
