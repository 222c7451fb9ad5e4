from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from compare import assert_equivalent, run_onnx
from onnx_text import ops, parse

from mpqtool.passes.errors import ModelError
from mpqtool.passes.normalize.opset import ConvertOpsetPass

_NET = """
    net (float[n,2,6,6] x) => (float[n,3] y) {
        c = Conv<pads=[1,1,1,1]>(x, w)
        r = Relu(c)
        p = MaxPool<kernel_shape=[2,2], strides=[2,2]>(r)
        g = GlobalAveragePool(p)
        y = Flatten(g)
    }
"""


@pytest.mark.parametrize("opset", [7, 8, 9, 10, 11, 12, 13, 15, 17, 18, 19, 20, 22, 23, 24, 25, 26])
def test_converts_every_opset(rng: np.random.Generator, opset: int) -> None:
    weights = {"w": rng.normal(size=(3, 2, 3, 3))}
    feeds = {"x": rng.normal(size=(2, 2, 6, 6)).astype(np.float32)}
    before = run_onnx(parse(_NET, weights, opset=opset), feeds)

    result = ConvertOpsetPass()(parse(_NET, weights, opset=opset))

    assert result.modified
    assert result.model.graph.opset_imports[""] == 21
    assert result.model.ir_version == 10
    assert ops(result.model) == ["Conv", "Relu", "MaxPool", "GlobalAveragePool", "Flatten"]
    assert list(result.model.graph.initializers) == ["w"]
    onnx.checker.check_model(ir.to_proto(result.model))
    assert_equivalent(before, run_onnx(result.model, feeds), rtol=0, atol=0)
    assert not ConvertOpsetPass()(result.model).modified


@pytest.mark.parametrize("opset", [11, 19, 24])
def test_leaves_custom_operators_as_they_are(opset: int) -> None:
    text = "net (float[n,2] x) => (float[n,2] y) { t = com.microsoft.Gelu(x) y = Relu(t) }"
    model = ConvertOpsetPass()(parse(text, opset=opset)).model
    assert [(node.domain, node.op_type) for node in model.graph] == [("com.microsoft", "Gelu"), ("", "Relu")]


def test_knows_the_long_name_of_the_standard_domain() -> None:
    model = parse("net (float[n,2] x) => (float[n,2] y) { y = Relu(x) }", opset=17)
    model.graph.opset_imports["ai.onnx"] = model.graph.opset_imports.pop("")
    assert ConvertOpsetPass()(model).model.graph.opset_imports[""] == 21


@pytest.mark.parametrize("ir_version", [4, 8, 13])
def test_sets_the_ir_version(ir_version: int) -> None:
    model = parse("net (float[n,2] x) => (float[n,2] y) { y = Relu(x) }")
    model.ir_version = ir_version
    assert ConvertOpsetPass()(model).modified
    assert model.ir_version == 10


@pytest.mark.parametrize("opset", [6, 27])
def test_refuses_opsets_out_of_range(opset: int) -> None:
    model = parse("net (float[n,2] x) => (float[n,2] y) { y = Relu(x) }")
    model.graph.opset_imports[""] = opset
    with pytest.raises(ir.passes.PassError) as caught:
        ir.passes.Sequential(ConvertOpsetPass())(model)
    assert isinstance(caught.value.__cause__, ModelError)
    assert f"declares opset {opset}; 7 to 26 can be read" in str(caught.value.__cause__)


def test_names_the_nodes_that_have_no_older_form() -> None:
    model = parse(
        "net (float[n,4] x) => (float[n,4] y) { a = BitCast<to=6>(x) y = BitCast<to=1>(a) }", opset=26
    )
    model.graph[0].name = "first"
    with pytest.raises(
        ModelError, match=r"from opset 26 to 21: BitCast 'first' \(version 26\) .* \(and 1 more\)"
    ) as caught:
        ConvertOpsetPass()(model)
    assert "\n" not in str(caught.value)


def test_refuses_element_types_of_later_opsets() -> None:
    model = parse("net (bfloat16[n,4] x) => (bfloat16[n,4] y) { y = Sin(x) }", opset=22)
    with pytest.raises(ModelError, match=r"Sin '' \(version 22\) has no form at opset 21: 'x' is BFLOAT16"):
        ConvertOpsetPass()(model)


@pytest.mark.parametrize("opset", [9, 26])
def test_an_operator_behind_a_custom_one_is_converted(opset: int) -> None:
    text = """net (float[n,2] x) => (float[n,2] y) {
        t = some.where.Else(x) y = Cast<to=1>(t) }"""
    model = parse(text.replace("some.where.Else", "com.microsoft.Else"), opset=opset)
    model.graph.outputs[0].shape = None
    assert ops(ConvertOpsetPass()(model).model) == ["Else", "Cast"]


def test_converts_subgraphs(rng: np.random.Generator) -> None:
    text = """net (float[n,2] x, bool k) => (float[a,b,c] y) { y = If(k)
        <then_branch = p () => (float[a,b,c] t) { t = Unsqueeze<axes=[0]>(x) },
         else_branch = q () => (float[a,b,c] e) { e = Unsqueeze<axes=[1]>(x) }> }"""
    model = ConvertOpsetPass()(parse(text, opset=11)).model
    for taken in (True, False):
        feeds = {"x": rng.normal(size=(3, 2)).astype(np.float32), "k": np.array(taken)}
        assert_equivalent(run_onnx(parse(text, opset=11), feeds), run_onnx(model, feeds), rtol=0, atol=0)


_FUNCTION = """
    <ir_version: 10, opset_import: ["" : 21, "own" : 1]>
    net (float[n,2] x) => (float[a,b] y) { y = own.Wide(x) }
    <domain: "own", opset_import: ["" : 11]>
    Wide ATTRIBUTE (x) => (y) { y = Unsqueeze<axes AXES>(x) }
"""


def test_a_function_is_converted_from_its_own_opset() -> None:
    proto = onnx.parser.parse_model(_FUNCTION.replace("ATTRIBUTE", "").replace("AXES", "=[0]"))
    model = ConvertOpsetPass()(ir.from_proto(proto)).model
    (function,) = model.functions.values()
    assert function.opset_imports[""] == 21
    assert [node.op_type for node in function] == ["Constant", "Unsqueeze"]
    x = np.ones((3, 2), np.float32)
    assert run_onnx(model, {"x": x})["y"].shape == (1, 3, 2)
    assert not ConvertOpsetPass()(model).modified


def test_a_parameter_of_a_function_is_refused_where_it_would_be_rewritten() -> None:
    text = _FUNCTION.replace("ATTRIBUTE", "<axes>").replace("AXES", ": ints = @axes")
    model = ir.from_proto(onnx.parser.parse_model(text))
    with pytest.raises(ModelError, match="its attribute 'axes' is a parameter of a function"):
        ConvertOpsetPass()(model)
