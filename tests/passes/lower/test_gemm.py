from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx_ir as ir
import pytest
from compare import run_onnx
from graphs import quantized
from onnx_text import ops

from mpqtool.passes import arithmetic
from mpqtool.passes.lower.gemm import LowerGemmPass
from mpqtool.passes.values import array, set_array

X = np.random.default_rng(1).normal(size=(16, 5)).astype(np.float32)


def _model(*, bias: bool = True, weight_bits: int = 4) -> ir.Model:
    rng = np.random.default_rng(0)
    text = f"""
    net (float[N, 5] x) => (float[N, 2] y) {{
        h = Gemm <transB = 1> (x, w{", b" if bias else ""})
        r = Relu (h)
        y = Gemm <transB = 1> (r, v)
    }}
    """
    weights = {"w": rng.normal(size=(4, 5)), "v": rng.normal(size=(2, 4)), "b": rng.normal(size=4)}
    return quantized(text, weights, {"x": X}, weight_bits=weight_bits, activation_bits=6)


def _value(model: ir.Model, name: str) -> np.ndarray:
    found = array(model.graph.initializers[name])
    assert found is not None
    return found


@pytest.mark.parametrize("bias", [True, False], ids=["bias", "no-bias"])
@pytest.mark.parametrize("weight_bits", [4, 8])
def test_codes_in_the_middle_and_real_values_at_the_end(bias: bool, weight_bits: int) -> None:
    qdq = _model(bias=bias, weight_bits=weight_bits)
    x = run_onnx(qdq, {"x": X}, expose=["x.codes"])["x.codes"].astype(np.int64)
    scale = {name: _value(qdq, f"{name}.scale") for name in ("x", "w", "r", "v")}
    acc = (x - int(_value(qdq, "x.zero_point"))) @ _value(qdq, "w.codes").astype(np.int64).T
    acc += _value(qdq, "b.codes") if bias else 0
    factor = arithmetic.multiplier(scale["x"], scale["w"], scale["r"])
    r = arithmetic.requantize(acc, factor, 0, 0, 63)
    total = r.astype(np.int64) @ _value(qdq, "v.codes").astype(np.int64).T
    y = total.astype(np.float32) * (scale["r"] * scale["v"])

    result = LowerGemmPass()(qdq)

    assert result.modified
    assert ops(result.model).count("QGemm") == 2
    result.model.graph.opset_imports["com.microsoft"] = 1
    found = run_onnx(result.model, {"x": X}, expose=["r.codes"])
    np.testing.assert_array_equal(found["r.codes"], r)
    np.testing.assert_array_equal(found["y"], y)


def _gemm(model: ir.Model) -> ir.Node:
    return next(node for node in model.graph if node.op_type == "Gemm")


def _transposed(model: ir.Model) -> None:
    _gemm(model).attributes["transA"] = ir.AttrInt64("transA", 1)


def _scaled(model: ir.Model) -> None:
    _gemm(model).attributes["alpha"] = ir.AttrFloat32("alpha", 0.5)


def _float_input(model: ir.Model) -> None:
    _gemm(model).replace_input_with(0, model.graph.inputs[0])


def _bias_of_each_row(model: ir.Model) -> None:
    set_array(model.graph.initializers["b.codes"], np.zeros((5, 4), np.int32))


def _too_large_a_bias(model: ir.Model) -> None:
    set_array(model.graph.initializers["b.codes"], np.full(4, 2**31 - 1, np.int32))


@pytest.mark.parametrize("spoil", [_transposed, _scaled, _float_input, _bias_of_each_row, _too_large_a_bias])
def test_is_left_alone(spoil: Callable[[ir.Model], None]) -> None:
    model = _model()
    spoil(model)

    result = LowerGemmPass()(model)

    assert ops(result.model).count("Gemm") == 1  # the other one is lowered
    assert ops(result.model).count("QGemm") == 1


def test_a_bias_of_one_row_is_one_number_per_kernel() -> None:
    flat, row = _model(), _model()
    held = row.graph.initializers["b.codes"].const_value
    assert held is not None
    codes = row.graph.initializers["b.codes"]
    set_array(codes, held.numpy().reshape(1, 4))
    codes.uses()[0].node.attributes["axis"] = ir.AttrInt64("axis", 1)

    found = []
    for model in (flat, row):
        lowered = LowerGemmPass()(model).model
        assert ops(lowered).count("QGemm") == 2
        lowered.graph.opset_imports["com.microsoft"] = 1
        found.append(run_onnx(lowered, {"x": X})["y"])
    np.testing.assert_array_equal(*found)


def test_second_run_changes_nothing() -> None:
    model = LowerGemmPass()(_model()).model

    assert not LowerGemmPass()(model).modified
