from __future__ import annotations

import onnx_ir as ir
from onnx_text import parse

from mpqtool.passes.clear_metadata import ClearForeignMetadataPass


def _model() -> ir.Model:
    return parse(
        "net (float[n,3] x, bool k) => (float[n,3] y) { y = If(k) "
        "<then_branch = a () => (float[n,3] p) { p = Relu(x) }, "
        "else_branch = b () => (float[n,3] q) { q = Mul(x, w) }> }",
        {"w": [2.0]},
    )


def test_clears_everything_but_our_own() -> None:
    model = _model()
    inner = model.graph[0].attributes["then_branch"].as_graph()
    things = [
        model, model.graph, model.graph[0], model.graph.inputs[0], model.graph.initializers["w"],
        inner, inner[0], inner[0].outputs[0],
    ]  # fmt: skip
    for thing in things:
        thing.doc_string = "/home/someone/train.py"
        thing.metadata_props["pkg.torch.onnx.stack_trace"] = "/home/someone/train.py"
        thing.metadata_props["mpqtool.bits"] = "4"

    assert ClearForeignMetadataPass()(model).modified

    assert "/home/someone" not in str(ir.to_proto(model))
    for thing in things:
        assert not thing.doc_string
        assert thing.metadata_props == {"mpqtool.bits": "4"}
    assert not ClearForeignMetadataPass()(model).modified


def test_a_clean_model_is_not_modified() -> None:
    assert not ClearForeignMetadataPass()(_model()).modified
