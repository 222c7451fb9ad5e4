from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from compare import assert_equivalent, run_onnx
from numpy.typing import NDArray
from onnx_text import ops, parse

from mpqtool.passes.normalize import CanonicalizeGemmPass
from mpqtool.passes.values import array

_IN, _OUT = 3, 4
_W = (np.arange(12).reshape(_IN, _OUT) - 5) / 3
_X = np.linspace(-1, 1, 6, dtype=np.float32).reshape(2, _IN)


def _net(body: str, inputs: str = "float[n,3] x") -> str:
    return f"net ({inputs}) => (float[n,4] y) {{ {body} }}"


def _check(
    text: str, weights: dict[str, NDArray[Any]], expected: list[str], feeds: dict[str, Any] | None = None
) -> Any:
    feeds = feeds or {"x": _X}
    before = run_onnx(parse(text, weights), feeds)
    result = CanonicalizeGemmPass()(parse(text, weights))
    assert result.modified
    assert [op for op in ops(result.model) if op != "Transpose" or "Transpose" in expected] == expected
    assert [value.name for value in result.model.graph.outputs] == ["y"]
    # Three products and a bias, summed in another order and scaled before or after: six roundings, each
    # of half a unit in the last place (6e-8); atol is for products of about 2 that cancel.
    assert_equivalent(before, run_onnx(result.model, feeds), rtol=1e-6, atol=1e-6)
    for node in result.model.graph:
        if node.op_type == "Gemm":
            assert {name: attr.value for name, attr in node.attributes.items()} == {"transB": 1}
    assert not CanonicalizeGemmPass()(result.model).modified
    return result.model


@pytest.mark.parametrize(
    ("body", "bias"),
    [
        pytest.param("y = MatMul(x, w)", None, id="matmul"),
        pytest.param("t = MatMul(x, w) y = Add(t, b)", np.ones(4), id="add"),
        pytest.param("t = MatMul(x, w) y = Add(b, t)", np.arange(4.0), id="add-swapped"),
        pytest.param("t = MatMul(x, w) y = Add(t, b)", np.arange(4.0)[None], id="add-row"),
        pytest.param("t = MatMul(x, w) y = Add(t, b)", np.float64(2.5), id="add-scalar"),
        pytest.param("y = Gemm(x, w)", None, id="gemm"),
        pytest.param("y = Gemm<alpha=0.5, beta=3.0>(x, w, b)", np.arange(4.0), id="alpha-beta"),
        pytest.param("y = Gemm<beta=3.0>(x, w, b)", np.float64(2), id="beta-scalar"),
        pytest.param("y = Gemm(x, w, b)", np.arange(4.0)[None], id="bias-row"),
        pytest.param("y = Gemm<beta=3.0>(x, w)", None, id="beta-without-bias"),
    ],
)
def test_makes_one_gemm_that_keeps_the_names(body: str, bias: NDArray[Any] | None) -> None:
    weights = {"w": _W} if bias is None else {"w": _W, "b": bias}
    model = _check(_net(body), weights, ["Gemm"])
    names = [value.name for value in model.graph[0].inputs]
    assert names == (["x", "w"] if bias is None else ["x", "w", "b"])
    assert array(model.graph[0].inputs[1]).shape == (_OUT, _IN)


@pytest.mark.parametrize(
    "body",
    ["t = Transpose<perm=[1,0]>(w) y = MatMul(x, t)", "t = Transpose(w) y = Gemm(x, t)"],
    ids=["matmul", "gemm"],
)
def test_takes_in_a_transposed_weight(body: str) -> None:
    model = _check(_net(body), {"w": _W.T}, ["Gemm"])
    gemm = next(node for node in model.graph if node.op_type == "Gemm")
    assert gemm.inputs[1].name == "w"
    np.testing.assert_array_equal(array(gemm.inputs[1]), _W.T.astype(np.float32))


@pytest.mark.parametrize("shared", [False, True])
def test_stores_the_weight_of_a_matmul_of_rank_3_as_it_is_multiplied(shared: bool) -> None:
    more = "z = MatMul(x, w)" if shared else "z = Identity(x)"
    body = f"t = Transpose(w)  y = MatMul(x, t)  {more}"
    text = f"net (float[2,n,3] x) => (float[2,n,3] y, float z) {{ {body} }}"
    before = parse(text, {"w": np.arange(9.0).reshape(3, 3)})
    result = CanonicalizeGemmPass()(before.clone())
    assert result.modified
    product = next(node for node in result.model.graph if node.outputs[0].name == "y")
    assert (product.op_type, product.inputs[1].is_initializer()) == ("MatMul", True)
    assert (product.inputs[1].name == "w") is not shared
    feeds = {"x": np.arange(12, dtype=np.float32).reshape(2, 2, 3)}
    assert_equivalent(run_onnx(before, feeds), run_onnx(result.model, feeds), rtol=0, atol=0)
    assert not CanonicalizeGemmPass()(result.model).modified


def test_a_transposed_input_gets_its_own_node() -> None:
    model = _check(
        _net("y = Gemm<transA=1>(x, w)", "float[3,n] x"), {"w": _W}, ["Transpose", "Gemm"], {"x": _X.T.copy()}
    )
    assert model.graph[1].inputs[1].name == "w"


@pytest.mark.parametrize(
    ("inputs", "feeds"),
    [
        pytest.param("float[n,3] x, float[4] b", {"b": np.arange(4, dtype=np.float32)}, id="not-constant"),
        pytest.param("float[n,3] x", {}, id="two-rows"),
    ],
)
def test_a_bias_that_is_no_row_becomes_an_add(inputs: str, feeds: dict[str, Any]) -> None:
    weights = {"w": _W} if feeds else {"w": _W, "b": np.arange(8.0).reshape(2, 4)}
    _check(_net("y = Gemm(x, w, b)", inputs), weights, ["Gemm", "Add"], {"x": _X, **feeds})


def test_a_shared_weight_is_copied() -> None:
    text = _net("t = MatMul(x, w) u = MatMul(x, w) y = Add(t, u)")
    model = _check(text, {"w": _W}, ["Gemm", "Gemm", "Add"])
    first, second = (node.inputs[1] for node in model.graph if node.op_type == "Gemm")
    assert first is not second
    assert "w" in (first.name, second.name)


@pytest.mark.parametrize(
    ("text", "weights"),
    [
        pytest.param("net (float[n,5,3] x) => (float[n,5,4] y) { y = MatMul(x, w) }", {"w": _W}, id="rank-3"),
        pytest.param(
            "net (float[n,3] x) => (float[a,b] y) { r = Relu(x) y = MatMul(r, w) }",
            {"w": _W},
            id="rank-unknown",
        ),
        pytest.param(_net("y = MatMul(x, v)", "float[n,3] x, float[3,4] v"), {}, id="weight-not-constant"),
        pytest.param(_net("y = Gemm(x, v)", "float[n,3] x, float[3,4] v"), {}, id="gemm-weight-not-constant"),
        pytest.param(_net("y = Gemm<transB=1>(x, w, b)"), {"w": _W.T, "b": np.ones(4)}, id="normal-already"),
    ],
)
def test_leaves_alone(text: str, weights: dict[str, NDArray[Any]]) -> None:
    assert not CanonicalizeGemmPass()(parse(text, weights)).modified


@pytest.mark.parametrize("op", ["MatMul(x, t)", "Gemm(x, t)", "Gemm<alpha=2.0>(x, t)"])
def test_a_transpose_that_swaps_nothing(op: str) -> None:
    text = f"net (float[n,3] x) => (float[n,3] y, float[3,3] t) {{ t = Transpose<perm=[0,1]>(w) y = {op} }}"
    weights = {"w": np.arange(9.0).reshape(3, 3)}
    before = run_onnx(parse(text, weights), {"x": _X})
    model = CanonicalizeGemmPass()(parse(text, weights)).model
    assert_equivalent(before, run_onnx(model, {"x": _X}), rtol=1e-6, atol=0)  # products summed anyhow


@pytest.mark.parametrize(
    "body",
    ["y = Gemm<alpha=2.0, beta=3.0>(x, w, w)", "y = Gemm(x, w, w)", "t = MatMul(x, w) y = Add(t, w)"],
)
def test_a_weight_that_is_its_own_bias(body: str) -> None:
    text = f"net (float[n,1] x) => (float[n,4] y) {{ {body} }}"
    weights, feeds = {"w": np.arange(1.0, 5.0)[None]}, {"x": np.array([[2], [-3]], np.float32)}
    before = run_onnx(parse(text, weights), feeds)
    model = CanonicalizeGemmPass()(parse(text, weights)).model
    assert_equivalent(before, run_onnx(model, feeds), rtol=0, atol=0)
