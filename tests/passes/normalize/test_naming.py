from __future__ import annotations

from onnx_text import parse

from mpqtool.passes.normalize.naming import name_pass


def test_names_nodes_after_their_operator_and_keeps_names() -> None:
    model = parse("net (float[n,2] x) => (float[n,2] y) { t = Relu(x) u = Relu(t) y = Relu(u) }")
    model.graph[1].name = "mine"
    model.graph[1].outputs[0].name = None

    result = name_pass()(model)

    assert result.modified
    assert [node.name for node in model.graph] == ["Relu", "mine", "Relu_1"]
    assert [node.outputs[0].name for node in model.graph] == ["t", "mine.output", "y"]
    assert not name_pass()(model).modified


def test_equal_names_become_different() -> None:
    model = parse("net (float[n,2] x) => (float[n,2] y) { t = Relu(x) y = Relu(t) }")
    model.graph[0].name = model.graph[1].name = "same"
    model.graph[0].outputs[0].name = "y"
    name_pass()(model)
    assert [node.name for node in model.graph] == ["same", "same_1"]
    assert [node.outputs[0].name for node in model.graph] == ["y_1", "y"]
