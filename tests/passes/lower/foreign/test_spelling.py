from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest
from compare import assert_equivalent, run_onnx
from onnx_ir.passes import common
from onnx_text import parse

from mpqtool.passes.lower.foreign import SpellQdqPass

X = {"x": np.linspace(-1, 9, 12, dtype=np.float32).reshape(3, 4)}
SCALE = {"s": np.float32(0.03)}


def _model(quantize: str, dequantize: str, *, opset: int = 21) -> ir.Model:
    text = f"net (float[N, 4] x) => (float[N, 4] y) {{ q = {quantize} y = {dequantize} }}"
    return parse(text, {"s": np.asarray(SCALE["s"]), "z": np.array(3, np.uint8)}, opset=opset)


@pytest.mark.parametrize(
    ("quantize", "dequantize", "zero"),
    [
        pytest.param(
            "com.microsoft.QuantizeLinear (x, s, z)",
            "com.microsoft.DequantizeLinear (q, s, z)",
            np.uint8(3),
            id="contrib",
        ),
        pytest.param("QuantizeLinear (x, s)", "DequantizeLinear (q, s)", np.uint8(0), id="no-zero-point"),
        pytest.param(
            "QuantizeLinear <output_dtype = 3> (x, s)",
            "DequantizeLinear (q, s)",
            np.int8(0),
            id="int8-attribute",
        ),
    ],
)
def test_both_become_standard_with_a_zero_point(quantize: str, dequantize: str, zero: np.generic) -> None:
    before = run_onnx(_model(quantize, dequantize), X)
    model = ir.from_proto(ir.to_proto(_model(quantize, dequantize)))
    common.ShapeInferencePass()(model)

    result = SpellQdqPass()(model)

    assert result.modified
    for node in result.model.graph:
        assert node.domain == ""
        held = node.inputs[2]
        assert held is not None
        assert held.const_value is not None
        found = held.const_value.numpy()
        assert (found, found.dtype) == (zero, zero.dtype)
    assert_equivalent(before, run_onnx(result.model, X), rtol=0, atol=0)


def test_what_is_spelled_so_is_left_alone() -> None:
    model = _model("QuantizeLinear (x, s, z)", "DequantizeLinear (q, s, z)")

    assert not SpellQdqPass()(model).modified
