from __future__ import annotations

import numpy as np
import pytest
from compare import assert_equivalent, run_onnx
from onnx_ir.passes.common import RemoveUnusedNodesPass, ShapeInferencePass
from onnx_text import ops, parse

from mpqtool.passes.normalize import CanonicalizeReshapePass
from mpqtool.passes.values import array


def _reshape(shape: str, target: list[int]) -> str:
    numbers = ",".join(str(dim) for dim in target)
    out = "a,b,c"[: 2 * len(target) - 1]
    return (
        f"net (float[{shape}] x) => (float[{out}] y) <int64[{len(target)}] to = {{{numbers}}}> "
        "{ y = Reshape(x, to) }"
    )


@pytest.mark.parametrize(
    ("shape", "target"),
    [
        pytest.param("2,3,4,5", [2, 60], id="fixed"),
        pytest.param("2,3,4,5", [2, -1], id="fixed-minus-one"),
        pytest.param("n,3,4,5", [0, 60], id="symbolic-zero"),
        pytest.param("n,3", [0, 3], id="changes-nothing"),
    ],
)
def test_a_flattening_reshape_becomes_flatten(
    rng: np.random.Generator, shape: str, target: list[int]
) -> None:
    size = [2 if dim == "n" else int(dim) for dim in shape.split(",")]
    feeds = {"x": rng.normal(size=size).astype(np.float32)}
    before = run_onnx(parse(_reshape(shape, target)), feeds)
    model = ShapeInferencePass()(parse(_reshape(shape, target))).model

    result = CanonicalizeReshapePass()(model)

    assert result.modified
    assert ops(model) == ["Flatten"]
    assert_equivalent(before, run_onnx(model, feeds), rtol=0, atol=0)
    assert not CanonicalizeReshapePass()(model).modified


_VIEW = """
    net (float[n,4,3] x) => (float[a,b] y) <int64 zero = {0}, int64[1] none = {0}, int64[1] rest = {REST}> {
        r = Relu(x)
        s = Shape(OF)
        g = Gather<axis=0>(s, zero)
        u = Unsqueeze(g, none)
        to = Concat<axis=0>(u, rest)
        y = Reshape(r, to)
    }
"""


@pytest.mark.parametrize("of", ["r", "x"])
@pytest.mark.parametrize("rest", ["-1", "12"])
def test_a_view_by_the_batch_size_becomes_flatten(of: str, rest: str) -> None:
    text = _VIEW.replace("OF", of).replace("REST", rest)
    feeds = {"x": np.arange(24, dtype=np.float32).reshape(2, 4, 3)}
    model = ShapeInferencePass(data_prop=True)(parse(text)).model
    assert CanonicalizeReshapePass()(model).modified
    RemoveUnusedNodesPass()(model)
    assert ops(model) == ["Relu", "Flatten"]
    assert_equivalent(run_onnx(parse(text), feeds), run_onnx(model, feeds), rtol=0, atol=0)


def test_the_batch_size_and_a_rest_become_0_and_minus_1() -> None:
    text = _VIEW.replace("OF", "r").replace("float[a,b] y", "float[a,b,c] y")
    text = text.replace("int64[1] rest = {REST}", "int64[2] rest = {-1, 6}")
    feeds = {"x": np.arange(24, dtype=np.float32).reshape(2, 4, 3)}
    model = ShapeInferencePass(data_prop=True)(parse(text)).model
    assert CanonicalizeReshapePass()(model).modified
    np.testing.assert_array_equal(array(model.graph[-1].inputs[1]), [0, -1, 6])
    assert_equivalent(run_onnx(parse(text), feeds), run_onnx(model, feeds), rtol=0, atol=0)


def test_a_computed_target_becomes_constant() -> None:
    text = """net (float[n,4,3] x) => (float[a,b,c] y) <int64[2] rest = {2, 6}, int64[1] zero = {0}>
        { s = Shape(x) b = Gather(s, zero) to = Concat<axis=0>(b, rest) y = Reshape(x, to) }"""
    model = ShapeInferencePass(data_prop=True)(parse(text)).model
    assert CanonicalizeReshapePass()(model).modified
    reshape = next(node for node in model.graph if node.op_type == "Reshape")
    np.testing.assert_array_equal(array(reshape.inputs[1]), [-1, 2, 6])
    feeds = {"x": np.arange(24, dtype=np.float32).reshape(2, 4, 3)}
    assert_equivalent(run_onnx(parse(text), feeds), run_onnx(model, feeds), rtol=0, atol=0)
    assert not CanonicalizeReshapePass()(model).modified


@pytest.mark.parametrize(
    "text",
    [
        pytest.param(_reshape("2,3,4,5", [6, 20]), id="batch-changes"),
        pytest.param(_reshape("n,3,4,5", [0, 3, 20]), id="rank-3"),
        pytest.param(_reshape("n,s,4,5", [0, -1]), id="features-unknown"),
        pytest.param(
            "net (float[n,4,3] x, int64[2] to) => (float[a,b] y) { y = Reshape(x, to) }",
            id="two-unknown-dims",
        ),
        pytest.param(
            _VIEW.replace("n,4,3] x", "n,4,3] x, float[m,4,3] q").replace("OF", "q").replace("REST", "-1"),
            id="batch-of-another",
        ),
        pytest.param(
            _VIEW.replace("n,4,3] x", "n,s,3] x")
            .replace("OF", "r")
            .replace("int64 zero = {0}", "int64 zero = {1}")
            .replace("REST", "-1"),
            id="size-of-another-axis",
        ),
    ],
)
def test_leaves_alone(text: str) -> None:
    model = ShapeInferencePass()(parse(text)).model
    assert not CanonicalizeReshapePass()(model).modified


@pytest.mark.parametrize(
    "body",
    [
        "y = Reshape<allowzero=1>(x, to)",
        "s = Shape(x) b = Gather(s, one) t = Concat<axis=0>(b, zero) y = Reshape<allowzero=1>(x, t)",
    ],
)
def test_sizes_of_zero_are_left_alone(body: str) -> None:
    text = f"net (float[n,m,0] x) => (float[a,b] y) {{ {body} }}"
    weights = {"to": np.array([7, 0]), "one": np.array([1]), "zero": np.array([0])}
    used = {name: numbers for name, numbers in weights.items() if name in body}
    feeds = {"x": np.zeros((2, 3, 0), np.float32)}
    before = run_onnx(parse(text, used), feeds)
    model = CanonicalizeReshapePass()(ShapeInferencePass(data_prop=True)(parse(text, used)).model).model
    assert_equivalent(before, run_onnx(model, feeds), rtol=0, atol=0)
