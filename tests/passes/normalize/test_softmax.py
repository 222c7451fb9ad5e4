from __future__ import annotations

import numpy as np
import pytest
from compare import assert_equivalent, run_onnx
from onnx_ir.passes.common import RemoveUnusedNodesPass, ShapeInferencePass
from onnx_text import ops, parse

from mpqtool.passes.normalize import ConvertOpsetPass, RestoreSoftmaxPass


def _text(shape: str, axis: int, op: str = "Softmax", of: str = "x") -> str:
    return f"""net (float[{shape}] x, float[{shape}] z) => (float[{shape}] y) {{
        f = Flatten<axis={axis}>(x) r = {op}<axis=1>(f) s = Shape({of}) y = Reshape(r, s) }}"""


@pytest.mark.parametrize("op", ["Softmax", "LogSoftmax", "Hardmax"])
@pytest.mark.parametrize(
    ("shape", "axis"), [("n,m,5", 2), ("n,m,5", -1), ("n,5,1,1", 1), ("n,5", 1)], ids=str
)
def test_becomes_one_node(rng: np.random.Generator, op: str, shape: str, axis: int) -> None:
    sizes = [int(size) if size.isdigit() else 3 for size in shape.split(",")]
    feeds = {name: rng.normal(size=sizes).astype(np.float32) for name in "xz"}
    before = run_onnx(parse(_text(shape, axis, op)), feeds)
    model = ShapeInferencePass()(parse(_text(shape, axis, op))).model

    assert RestoreSoftmaxPass()(model).modified

    RemoveUnusedNodesPass()(model)
    assert ops(model) == [op]
    assert_equivalent(before, run_onnx(model, feeds), rtol=1e-6, atol=1e-6)
    assert not RestoreSoftmaxPass()(model).modified


def test_undoes_what_the_opset_needed() -> None:
    text = "net (float[n,4,7] x) => (float[n,4,7] y) { y = Softmax<axis=2>(x) }"
    model = ShapeInferencePass()(ConvertOpsetPass()(parse(text, opset=11)).model).model
    assert ops(model) == ["Flatten", "Softmax", "Shape", "Reshape"]
    RestoreSoftmaxPass()(model)
    RemoveUnusedNodesPass()(model)
    assert ops(model) == ["Softmax"]


@pytest.mark.parametrize(
    "text",
    [
        pytest.param(_text("n,m,5", 1), id="two-axes"),
        pytest.param(_text("n,5,m", 1), id="size-unknown"),
        pytest.param(_text("n,m,5", 2, of="z"), id="shape-of-another"),
        pytest.param(_text("n,m,5", 2).replace("<axis=1>(f)", "<axis=0>(f)"), id="other-axis"),
    ],
)
def test_leaves_alone(text: str) -> None:
    model = ShapeInferencePass()(parse(text)).model
    assert not RestoreSoftmaxPass()(model).modified
