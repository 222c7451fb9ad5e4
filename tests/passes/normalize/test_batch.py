from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest
from compare import assert_equivalent, run_onnx
from onnx_ir.passes.common import ShapeInferencePass
from onnx_text import ops, parse

from mpqtool.passes.normalize import FreeBatchSizePass

FIXED = "net (float[1,2,4] x) => (float[1,2,2,2] y) <int64[4] to = {1,2,2,-1}> { y = Reshape(x, to) }"


def test_frees_input_and_reshape(rng: np.random.Generator) -> None:
    x = rng.normal(size=(3, 2, 4)).astype(np.float32)
    alone = [run_onnx(parse(FIXED), {"x": sample[None]})["y"] for sample in x]

    result = FreeBatchSizePass()(ShapeInferencePass()(parse(FIXED)).model)

    assert result.modified
    assert [str(size) for size in result.model.graph.inputs[0].shape] == ["batch", "2", "4"]
    freed = run_onnx(ShapeInferencePass()(result.model).model, {"x": x})
    assert_equivalent({"y": np.concatenate(alone)}, freed, rtol=0, atol=0)


@pytest.mark.parametrize(
    "text",
    [
        pytest.param("net (float[n,3] x) => (float[n,3] y) { y = Relu(x) }", id="already-free"),
        pytest.param("net (float x) => (float y) { y = Relu(x) }", id="no-dimensions"),
        pytest.param(
            "net (float[1,3] a, float[2,3] b) => (float[2,3] y) { y = Add(a, b) }", id="inputs-differ"
        ),
    ],
)
def test_is_left_alone(text: str) -> None:
    model = parse(text)
    before = [str(value.shape) for value in model.graph.inputs]
    result = FreeBatchSizePass()(model)
    assert not result.modified
    assert [str(value.shape) for value in result.model.graph.inputs] == before


def test_second_run_changes_nothing() -> None:
    pass_ = FreeBatchSizePass()
    model = ShapeInferencePass()(pass_(ShapeInferencePass()(parse(FIXED)).model).model).model
    assert not pass_(model).modified
    assert ops(model) == ["Reshape"]


def test_a_symbol_that_is_taken_is_not_used_again() -> None:
    text = "net (float[1,batch,4] x) => (float[1,batch,4] y) { y = Relu(x) }"
    model = FreeBatchSizePass()(ShapeInferencePass()(parse(text)).model).model
    assert [str(size) for size in model.graph.inputs[0].shape] == ["batch_1", "batch", "4"]


_TARGETS = {
    "to": np.array([2, 4, 3]),
    "one": np.array([1]),
    "size": np.array([2, 1, 6]),
    "flat": np.array([2, 3]),
}
_BRANCHES = """k = ReduceSum<keepdims=0>(x) n = Neg(k) c = Greater(k, n) y = If(c) <
    then_branch = a () => (float[2,3] p) { p = Reshape(u, flat) },
    else_branch = b () => (float[2,3] q) { r = Abs(u) q = Reshape(r, flat) }>"""


@pytest.mark.parametrize(
    ("body", "shape"),
    [
        pytest.param("y = Expand(u, to)", "2,4,3", id="expand"),
        pytest.param("y = Resize(u, , , size)", "2,1,6", id="resize"),
        pytest.param(_BRANCHES, "2,3", id="reshape-in-branches"),
    ],
)
def test_frees_other_targets(body: str, shape: str, rng: np.random.Generator) -> None:
    text = f"net (float[2,3] x) => (float[{shape}] y) {{ u = Unsqueeze(x, one) {body} }}"
    used = {name: numbers for name, numbers in _TARGETS.items() if name in text}
    x = rng.normal(size=(6, 3)).astype(np.float32)
    parts = [run_onnx(parse(text, used), {"x": part})["y"] for part in (x[:2], x[2:4], x[4:])]
    if "If" in body:  # one condition for all
        parts = [run_onnx(parse(text, used), {"x": np.abs(part)})["y"] for part in (x[:2], x[2:4], x[4:])]
        x = np.abs(x)
    model = ShapeInferencePass()(parse(text, used)).model
    assert FreeBatchSizePass()(model).modified
    ShapeInferencePass()(model)
    assert_equivalent({"y": np.concatenate(parts)}, run_onnx(model, {"x": x}), rtol=0, atol=0)


@pytest.mark.parametrize(
    ("body", "shape"),
    [
        pytest.param("y = Add(x, held)", "2,3", id="added-constant"),
        pytest.param("t = ConstantOfShape(flat) y = Concat<axis=1>(x, t)", "2,6", id="constant-of-shape"),
        pytest.param("y = Reshape(x, mixed)", "3,2", id="reshape-of-all"),
    ],
)
def test_a_number_held_elsewhere_keeps_the_model_as_it_is(
    body: str, shape: str, caplog: pytest.LogCaptureFixture
) -> None:
    text = f"net (float[2,3] x) => (float[{shape}] y) {{ {body} }}"
    weights = {**_TARGETS, "held": np.ones((2, 3)), "mixed": np.array([3, 2])}
    used = {name: numbers for name, numbers in weights.items() if name in body}
    model = ShapeInferencePass()(parse(text, used)).model
    before = ir.to_proto(model)
    with caplog.at_level("INFO"):
        assert not FreeBatchSizePass()(model).modified
    assert ir.to_proto(model) == before
    assert "Kept the batch size 2: the model fixes it at 'y' too" in caplog.text


def test_what_inference_cannot_tell_counts_as_free() -> None:
    text = "net (float[2,3] x) => (float[2,3] y) { t = com.microsoft.Gelu(x) y = Relu(t) }"
    assert FreeBatchSizePass()(ShapeInferencePass()(parse(text)).model).modified
