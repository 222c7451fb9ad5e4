from __future__ import annotations

import numpy as np
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


def test_a_reshape_that_mixes_the_batch_is_kept() -> None:
    text = "net (float[2,6] x) => (float[3,4] y) <int64[2] to = {3,4}> { y = Reshape(x, to) }"
    result = FreeBatchSizePass()(ShapeInferencePass()(parse(text)).model)
    (node,) = [node for node in result.model.graph if node.op_type == "Reshape"]
    assert node.inputs[1].const_value.numpy().tolist() == [3, 4]


def test_second_run_changes_nothing() -> None:
    pass_ = FreeBatchSizePass()
    model = ShapeInferencePass()(pass_(ShapeInferencePass()(parse(FIXED)).model).model).model
    assert not pass_(model).modified
    assert ops(model) == ["Reshape"]
