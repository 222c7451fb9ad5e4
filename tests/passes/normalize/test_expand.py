"""Operators that came after opset 21."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from compare import assert_equivalent, run_onnx
from numpy.typing import NDArray
from onnx_text import ops, parse

from mpqtool.passes.errors import ModelError
from mpqtool.passes.normalize.opset import ConvertOpsetPass


@pytest.mark.parametrize(
    ("opset", "body"),
    [
        (23, "y = RMSNormalization<axis=2, epsilon=0.01>(x, s)"),
        (23, "y = RotaryEmbedding(x, cos, sin)"),
        (23, "y = Attention<is_causal=1>(x, x, x)"),
        (24, "y = Attention(x, x, x, mask)"),
        (24, "y = Swish<alpha=0.5>(x)"),
        (24, "y = Swish(x)"),
    ],
)
def test_means_the_same(rng: np.random.Generator, opset: int, body: str) -> None:
    weights = {
        "s": rng.normal(size=(3, 4)),
        "cos": rng.normal(size=(2, 3, 2)),
        "sin": rng.normal(size=(2, 3, 2)),
        "mask": rng.normal(size=(3, 3)),
    }
    used = {name: numbers for name, numbers in weights.items() if f" {name}" in body}
    text = f"net (float[2,5,3,4] x) => (float[2,5,3,4] y) {{ {body} }}"
    feeds = {"x": rng.normal(size=(2, 5, 3, 4)).astype(np.float32)}

    model = ConvertOpsetPass()(parse(text, used, opset=opset)).model

    onnx.checker.check_model(ir.to_proto(model), full_check=True)
    assert {node.domain for node in model.graph} == {""}
    assert not model.functions
    # Sums and exponentials in another order.
    assert_equivalent(
        run_onnx(parse(text, used, opset=opset), feeds), run_onnx(model, feeds), rtol=1e-5, atol=1e-6
    )
    assert not ConvertOpsetPass()(model).modified


def test_each_of_several_is_expanded_on_its_own(rng: np.random.Generator) -> None:
    text = "net (float[2,3] x) => (float[2,3] y) { a = Swish<alpha=2.0>(x) b = Swish(a) y = Relu(b) }"
    feeds = {"x": rng.normal(size=(2, 3)).astype(np.float32)}
    model = ConvertOpsetPass()(parse(text, opset=24)).model
    assert [node.outputs[0].name for node in model.graph if node.op_type == "Relu"] == ["y"]
    assert_equivalent(run_onnx(parse(text, opset=24), feeds), run_onnx(model, feeds), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("axis", [0, 1, -1])
@pytest.mark.parametrize("attributes", ["", "<exclusive=1>", "<reverse=1>", "<exclusive=1, reverse=1>"])
def test_cumulative_products(rng: np.random.Generator, axis: int, attributes: str) -> None:
    text = f"net (float[3,4,2] x) => (float[3,4,2] y) {{ y = CumProd{attributes}(x, axis) }}"
    model = ConvertOpsetPass()(parse(text, {"axis": np.array(axis)}, opset=26)).model
    x = rng.normal(size=(3, 4, 2)).astype(np.float32)
    assert_equivalent(_reference(text, axis, x), run_onnx(model, {"x": x}), rtol=1e-6, atol=1e-6)


def _reference(text: str, axis: int, x: NDArray[Any]) -> dict[str, NDArray[Any]]:
    """By the reference of onnx, as ONNX Runtime has no CumProd."""
    proto = ir.to_proto(parse(text, {"axis": np.array(axis)}, opset=26))
    (y,) = onnx.reference.ReferenceEvaluator(proto).run(None, {"x": x})
    return {"y": y}


@pytest.mark.parametrize("mode", ["linear", "circular"])
@pytest.mark.parametrize("starts", [", at", ""])
@pytest.mark.parametrize("axis", [1, -1])
def test_scattered_tensors(rng: np.random.Generator, mode: str, starts: str, axis: int) -> None:
    shapes = {1: (2, 2, 4), -1: (2, 5, 2)}
    text = f"""net (float[2,5,4] x, float[{",".join(map(str, shapes[axis]))}] u) => (float[2,5,4] y)
        {{ y = TensorScatter<axis={axis}, mode="{mode}">(x, u{starts}) }}"""
    weights = {"at": np.array([2, 1 if mode == "linear" else 3])} if starts else {}
    feeds = {
        "x": rng.normal(size=(2, 5, 4)).astype(np.float32),
        "u": rng.normal(size=shapes[axis]).astype(np.float32),
    }
    model = ConvertOpsetPass()(parse(text, weights, opset=24)).model
    proto = ir.to_proto(parse(text, weights, opset=24))
    (y,) = onnx.reference.ReferenceEvaluator(proto).run(None, feeds)
    assert_equivalent({"y": y}, run_onnx(model, feeds), rtol=0, atol=0)


@pytest.mark.parametrize(
    ("text", "opset", "message"),
    [
        pytest.param(
            "net (float[3,4] x, int64 a) => (float[3,4] y) { y = CumProd(x, a) }",
            26,
            r"CumProd '' \(version 26\) has no form at opset 21: its axis is not constant",
            id="axis-not-constant",
        ),
        pytest.param(
            "net (float[3,4] x) => (float[3,4] y) { t = com.microsoft.Else(x) y = TensorScatter(t, x) }",
            24,
            "the shape of its input is not known",
            id="shape-unknown",
        ),
    ],
)
def test_has_no_form(text: str, opset: int, message: str) -> None:
    with pytest.raises(ModelError, match=message):
        ConvertOpsetPass()(parse(text, opset=opset))


def test_a_custom_operator_of_the_same_name_is_left() -> None:
    text = "net (float[3,4] x) => (float[3,4] y) { y = com.microsoft.Swish(x) }"
    assert ops(ConvertOpsetPass()(parse(text, opset=24)).model) == ["Swish"]
