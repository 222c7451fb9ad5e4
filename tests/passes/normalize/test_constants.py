from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir
import pytest
from compare import assert_equivalent, run_onnx
from onnx_ir.passes.common import RemoveUnusedNodesPass
from onnx_text import ops, parse

from mpqtool.passes.normalize import FoldConstantsPass
from mpqtool.passes.pipelines import normalize
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


_IF = """
    net (float[2,3] x) => (float[2,3] y) <bool yes = {1}> {
        t = If(yes) <
            then_branch = a () => (float[2,3] o) <float[3] w = {1.0, 2.0, 3.0}> { m = Relu(x) o = Mul(m, w) },
            else_branch = b () => (float[2,3] e) { e = Neg(x) }>
        y = If(yes) <
            then_branch = c () => (float[2,3] o) <float[3] w = {4.0, 5.0, 6.0}> {
                s = Shape(t)
                z = Constant<value = int64 {0}>()
                g = Gather(s, z)
                two = Constant<value = int64 {2}>()
                k = Equal(g, two)
                o = If(k) <
                    then_branch = d () => (float[2,3] p) { m = Abs(t) p = Sub(m, w) },
                    else_branch = f () => (float[2,3] q) { q = Neg(x) }>
            },
            else_branch = g () => (float[2,3] e) { e = Neg(x) }>
    }
"""


def test_a_known_condition_takes_its_branch_also_inside_of_a_branch(rng: np.random.Generator) -> None:
    feeds = {"x": rng.normal(size=(2, 3)).astype(np.float32)}
    before = run_onnx(parse(_IF), feeds)
    model = normalize(parse(_IF))
    assert ops(model) == ["Relu", "Mul", "Abs", "Sub"]
    assert sorted(array(value).tolist() for value in model.graph.initializers.values()) == [
        [1, 2, 3],
        [4, 5, 6],
    ]
    assert_equivalent(before, run_onnx(model, feeds), rtol=0, atol=0)


def test_a_known_condition_in_the_branch_of_an_unknown_one() -> None:
    text = """net (float[n,3] x, bool k) => (float[n,3] y) <bool no = {0}> { y = If(k) <
        then_branch = a () => (float[n,3] o) { o = If(no) <
            then_branch = c () => (float[n,3] p) { p = Relu(x) },
            else_branch = d () => (float[n,3] q) { q = Abs(x) }> },
        else_branch = b () => (float[n,3] e) { e = Neg(x) }> }"""
    model = parse(text)
    assert FoldConstantsPass()(model).modified
    assert ops(model) == ["If"]
    assert [node.op_type for node in model.graph[0].attributes["then_branch"].as_graph()] == ["Abs"]


@pytest.mark.parametrize(
    ("body", "kept"),
    [
        pytest.param("t = Expand(p, s) y = Add(x, t)", "Expand", id="copies-of-a-weight"),
        pytest.param("t = Tile(p, s) y = Add(x, t)", "Tile", id="tiles-of-a-weight"),
        pytest.param(
            "t = ConstantOfShape(big) r = ReduceMax(t) y = Add(x, r)", "ConstantOfShape", id="large"
        ),
        pytest.param("t = Expand(one, big) r = ReduceMax(t) y = Add(x, r)", "Expand", id="large-copies"),
    ],
)
def test_does_not_copy_what_is_learned_or_make_large_things(body: str, kept: str) -> None:
    weights = {
        "p": np.ones((1, 3)),
        "s": np.array([2, 3]),
        "big": np.array([100_000, 1_000_000]),
        "one": np.ones(1),
    }
    model = parse(f"net (float[n,3] x) => (float[a,b] y) {{ {body} }}", weights)
    FoldConstantsPass()(model)
    assert kept in ops(model)


def test_an_expand_that_copies_nothing_goes() -> None:
    text = "net (float[n,3] x) => (float[n,3] y) { t = Expand(p, s) y = Add(x, t) }"
    model = parse(text, {"p": np.ones((1, 3)), "s": np.array([1, 3])})
    assert FoldConstantsPass()(model).modified
    RemoveUnusedNodesPass()(model)
    assert ops(model) == ["Add"]


def test_a_cast_that_does_not_saturate_stays_so() -> None:
    text = """net (float[n] x, float8e4m3fn[1] l) => (float[n] y) {
        c = CastLike<saturate=0>(x, l) y = Cast<to=1>(c) }"""
    model = parse(text)
    assert FoldConstantsPass()(model).modified
    assert ops(model) == ["Cast", "Cast"]
    assert model.graph[0].attributes["saturate"].as_int() == 0
    assert not FoldConstantsPass()(model).modified


@pytest.mark.parametrize(
    ("body", "size"),
    [
        ("v = Reshape(w, to) y = Conv(x, v)", (4, 18)),
        ("v = Transpose<perm=[0,1,3,2]>(w) y = Conv(x, v)", (4, 2, 3, 3)),
        ("u = Squeeze(w, zero) v = Transpose<perm=[1,0,2,3]>(u) y = Conv(x, v)", (1, 2, 4, 3, 3)),
        ("v = Cast<to=1>(w) y = Conv(x, v)", (4, 2, 3, 3)),
    ],
    ids=["reshape", "transpose", "chain", "cast"],
)
def test_a_weight_in_another_form_keeps_its_name(
    body: str, size: tuple[int, ...], rng: np.random.Generator
) -> None:
    kind = np.float16 if "Cast" in body else np.float32
    weights = {"w": rng.normal(size=size).astype(kind), "to": np.array([4, 2, 3, 3]), "zero": np.array([0])}
    used = {name: numbers for name, numbers in weights.items() if name in body}
    text = f"net (float[n,2,5,5] x) => (float[n,4,3,3] y) {{ {body} }}"
    feeds = {"x": rng.normal(size=(1, 2, 5, 5)).astype(np.float32)}
    before = run_onnx(parse(text, used), feeds)
    model = normalize(parse(text, used))
    assert set(model.graph.initializers) == {"w"}
    assert_equivalent(before, run_onnx(model, feeds), rtol=1e-6, atol=1e-6)  # sums in another order


@pytest.mark.parametrize(
    "body",
    [
        pytest.param(
            "v = Reshape(w, to) s = Conv(x, v) t = Reshape(w, to) u = Conv(x, t) y = Add(s, u)",
            id="two-users",
        ),
        pytest.param("v = Mul(w, two) y = Conv(x, v)", id="other-numbers"),
    ],
)
def test_another_weight_gets_another_name(body: str) -> None:
    weights = {"w": np.ones((4, 2, 3, 3)), "to": np.array([4, 2, 3, 3]), "two": np.float32(2)}
    used = {name: numbers for name, numbers in weights.items() if f"{name})" in body or f"{name}," in body}
    model = parse(f"net (float[n,2,5,5] x) => (float[n,4,3,3] y) {{ {body} }}", used)
    FoldConstantsPass()(model)
    RemoveUnusedNodesPass()(model)
    assert set(model.graph.initializers) == ({"v", "t"} if "Reshape" in body else {"v"})


def test_one_weight_of_two_layers_stays_one() -> None:
    text = "net (float[n,2,5,5] x) => (float[n,2,5,5] y) { v = Identity(w) t = Conv(x, w) y = Conv(t, v) }"
    model = normalize(parse(text, {"w": np.ones((2, 2, 1, 1))}))
    assert set(model.graph.initializers) == {"w"}


@pytest.mark.parametrize(
    ("body", "kept"),
    [
        pytest.param("t = Mul(column, row) r = ReduceMax(t, axes)", "Mul", id="broadcast"),
        pytest.param("t = MatMul(column, row) r = ReduceMax(t, axes)", "Gemm", id="product"),
        pytest.param("i = Range(a, b, c) t = Cast<to=1>(i) r = ReduceMax(t, zero)", "Range", id="range"),
    ],
)
def test_does_not_make_large_things_of_small_ones(body: str, kept: str) -> None:
    weights = {
        "column": np.ones((2000, 1)),
        "row": np.ones((1, 2000)),
        "axes": np.array([0, 1]),
        "zero": np.array([0]),
        "a": np.int64(0),
        "b": np.int64(10**13),  # could not even be tried
        "c": np.int64(1),
    }
    used = {
        name: np.asarray(array) for name, array in weights.items() if f"{name})" in body or f"{name}," in body
    }
    model = normalize(parse(f"net (float[n] x) => (float[a,b] y) {{ {body} y = Add(x, r) }}", used))
    assert kept in ops(model)


def test_a_transposed_matrix_that_is_given_out_too_stays_so() -> None:
    text = (
        "net (float[n,3] x) => (float[n,3] y, float[3,3] o) { o = Transpose<perm=[1,0]>(w) y = MatMul(x, o) }"
    )
    model = normalize(parse(text, {"w": np.arange(9.0).reshape(3, 3)}))
    assert ops(model) == ["Transpose", "Gemm"]
    assert ir.to_proto(normalize(model)) == ir.to_proto(model)
