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


def test_says_what_has_no_older_form() -> None:
    model = parse(
        "net (float[n,4] x) => (float[n,4] y) { y = RMSNormalization(x, s) }", {"s": [1.0] * 4}, opset=23
    )
    with pytest.raises(ModelError, match=r"from opset 23 to 21: .*RMSNormalization"):
        ConvertOpsetPass()(model)


def test_initializers_among_the_inputs_are_refused() -> None:
    model = parse(_NET.replace("x) =>", "x, float[3,2,3,3] w) =>"), {"w": np.ones((3, 2, 3, 3))}, opset=11)
    with pytest.raises(
        ir.passes.PreconditionError, match=r"run InlinePass and RemoveInitializersFromInputsPass"
    ):
        ConvertOpsetPass()(model)
