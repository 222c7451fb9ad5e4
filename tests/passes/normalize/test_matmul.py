from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir
import pytest
from compare import assert_equivalent, run_onnx
from numpy.typing import NDArray
from onnx_text import ops, parse

from mpqtool.passes.cost import layers
from mpqtool.passes.normalize import FlattenMatMulPass, InferShapesPass
from mpqtool.passes.pipelines import normalize
from mpqtool.passes.values import array

_IN, _OUT = 3, 4
_W = np.random.default_rng(1).normal(size=(_IN, _OUT)).astype(np.float32)
_ROUNDING = {"rtol": 1e-6, "atol": 1e-6}  # products summed in another order


def _parse(body: str, weights: dict[str, Any] | None = None, x: str = "n,5,3") -> ir.Model:
    text = f"net (float[{x}] x) => (float[{x[:-1]}4] y) {{ {body} }}"
    return InferShapesPass()(parse(text, {"w": _W, **(weights or {})})).model


def _feeds(shape: tuple[int, ...] = (2, 5, 3)) -> dict[str, NDArray[Any]]:
    return {"x": np.random.default_rng(0).normal(size=shape).astype(np.float32)}


@pytest.mark.parametrize(
    ("body", "weights", "expected"),
    [
        pytest.param("y = MatMul(x, w)", {}, ["Flatten", "MatMul", "Reshape"], id="product"),
        pytest.param(
            "t = MatMul(x, w) y = Add(t, b)",
            {"b": np.arange(4.0)},
            ["Flatten", "MatMul", "Add", "Reshape"],
            id="bias",
        ),
        pytest.param(
            "t = MatMul(x, w) y = Add(b, t)",
            {"b": np.arange(4.0).reshape(1, 1, 4)},
            ["Flatten", "MatMul", "Add", "Reshape"],
            id="bias-of-rank-3",
        ),
        pytest.param(
            "t = MatMul(x, w) u = Add(t, b) r = Relu(u) y = Clip(r, low)",
            {"b": np.arange(4.0), "low": np.float32(0.5)},
            ["Flatten", "MatMul", "Add", "Relu", "Clip", "Reshape"],
            id="bounds",
        ),
        pytest.param(
            "t = MatMul(x, w) y = Add(t, b)",
            {"b": np.arange(20.0).reshape(5, 4)},
            ["Flatten", "MatMul", "Reshape", "Add"],
            id="varies-over-tokens",
        ),
        pytest.param(
            "t = MatMul(x, w) y = Add(t, b)",
            {"b": np.float32(2)},
            ["Flatten", "MatMul", "Reshape", "Add"],
            id="one-number",
        ),
        pytest.param(
            "t = MatMul(x, w) y = Mul(t, t)", {}, ["Flatten", "MatMul", "Reshape", "Mul"], id="used-twice"
        ),
    ],
)
def test_fires(body: str, weights: dict[str, Any], expected: list[str]) -> None:
    before = run_onnx(_parse(body, weights), _feeds())

    result = FlattenMatMulPass()(_parse(body, weights))

    assert result.modified
    assert ops(result.model) == expected
    assert_equivalent(before, run_onnx(result.model, _feeds()), **_ROUNDING)
    again = _feeds((7, 5, 3))  # another batch
    assert_equivalent(run_onnx(_parse(body, weights), again), run_onnx(result.model, again), **_ROUNDING)
    assert not FlattenMatMulPass()(result.model).modified


def test_layers_of_one_input_share_its_rows() -> None:
    body = "t = MatMul(x, w) u = MatMul(x, v) y = Add(t, u)"
    result = FlattenMatMulPass()(_parse(body, {"v": 2 * _W}))
    assert ops(result.model) == ["Flatten", "MatMul", "Reshape", "MatMul", "Reshape", "Add"]


@pytest.mark.parametrize(
    "target",
    [
        pytest.param([0, 5, 2, 2], id="batch-as-before"),
        pytest.param([-1, 5, 2, 2], id="batch-is-what-remains"),
        pytest.param([0, 5, -1, 2], id="known-by-inference"),
    ],
)
def test_a_reshape_behind_takes_the_rows(target: list[int]) -> None:
    text = "net (float[n,5,3] x) => (float[n,5,2,2] y) { t = MatMul(x, w)  y = Reshape(t, s) }"
    weights = {"w": _W, "s": np.array(target, np.int64)}

    def model() -> ir.Model:
        return InferShapesPass()(parse(text, weights)).model

    before = run_onnx(model(), _feeds())
    result = FlattenMatMulPass()(model())
    assert ops(result.model) == ["Flatten", "MatMul", "Reshape"]
    assert_equivalent(before, run_onnx(result.model, _feeds()), **_ROUNDING)


def test_sizes_that_can_vary_are_computed() -> None:
    body, weights = "t = MatMul(x, w) u = MatMul(x, v) y = Add(t, u)", {"v": 2 * _W}
    result = FlattenMatMulPass()(_parse(body, weights, x="n,m,3"))
    assert ops(result.model).count("Shape") == 1
    for shape in ((2, 5, 3), (3, 1, 3)):
        before = run_onnx(_parse(body, weights, x="n,m,3"), _feeds(shape))
        assert_equivalent(before, run_onnx(result.model, _feeds(shape)), **_ROUNDING)


@pytest.mark.parametrize(
    ("text", "weights"),
    [
        pytest.param("net (float[n,3] x) => (float[n,4] y) { y = MatMul(x, w) }", {}, id="rank-2"),
        pytest.param(
            "net (float[n,5,3] x, float[3,4] v) => (float[n,5,4] y) { y = MatMul(x, v) }", {}, id="two-inputs"
        ),
        pytest.param(
            "net (float[n,5,3] x) => (float[n,5,4] y) { t = MatMul(x, w) u = MatMul(x, w) y = Add(t, u) }",
            {},
            id="weight-of-two",
        ),
        pytest.param(
            "net (float[2,5,3] x) => (float[2,5,4] y) { y = MatMul(x, v) }",
            {"v": np.ones((2, 3, 4))},
            id="weight-of-rank-3",
        ),
        pytest.param(
            "net (float[n,5,3] x) => (float[a,b,c] y) { r = Relu(x) y = MatMul(r, w) }", {}, id="rank-unknown"
        ),
        pytest.param("net (float[n,0,3] x) => (float[n,0,4] y) { y = MatMul(x, w) }", {}, id="no-tokens"),
    ],
)
def test_leaves_alone(text: str, weights: dict[str, Any]) -> None:
    assert not FlattenMatMulPass()(parse(text, {"w": _W, **weights})).modified


@pytest.mark.parametrize("batch", ["n", "1"])
def test_becomes_a_gemm_in_the_normal_form_whose_batch_is_free(batch: str) -> None:
    weights = {"b": np.arange(4.0), "v": np.ones((4, 4))}
    body = "t = MatMul(x, w) u = Add(t, b) r = Relu(u) y = MatMul(r, v)"
    model = normalize(_parse(body, weights, x=f"{batch},5,3"))
    assert ops(model) == ["Flatten", "Gemm", "Relu", "Reshape", "Flatten", "Gemm", "Reshape"]
    assert [value.name for value in model.graph[1].inputs] == ["x.rows", "w", "b"]
    assert array(model.graph[1].inputs[1]).shape == (_OUT, _IN)
    for count in (1, 3):
        feeds = _feeds((count, 5, 3))
        assert_equivalent(
            run_onnx(_parse(body, weights), feeds), run_onnx(model, feeds), rtol=1e-5, atol=1e-5
        )
    assert [row.macs for row in layers(model)] == [5 * 3 * 4, 5 * 4 * 4]
    assert [row.inputs for row in layers(model)] == [5 * 3, 5 * 4]
