from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx_ir as ir
import pytest
from compare import run_onnx
from graphs import calibrated, normal
from onnx_text import ops

from mpqtool.passes import arithmetic
from mpqtool.passes.lower.matmul import LowerMatMulPass
from mpqtool.passes.pipelines import quantize
from mpqtool.runtime.session import LEVELS

FEEDS = {
    name: np.random.default_rng(i).normal(size=shape).astype(np.float32)
    for i, (name, shape) in enumerate({"a": (2, 3, 5, 18), "b": (3, 18, 7)}.items())
}


def _model(bits: int = 8) -> ir.Model:
    text = """
    net (float[2, 3, 5, K] a, float[3, K, 7] b) => (float[2, 3, 5, 7] y) {
        m = MatMul (a, b)
        y = Relu (m)
    }
    """
    model = normal(text)
    return quantize(model, calibrated(model, FEEDS, activation_bits=bits))


@pytest.mark.parametrize("bits", [4, 8])
def test_codes_are_those_of_the_arithmetic(bits: int) -> None:
    qdq = _model(bits)
    scales = {
        name: value.const_value.numpy() for name, value in qdq.graph.initializers.items() if value.const_value
    }
    codes = run_onnx(qdq, FEEDS, expose=["a.codes", "b.codes"])
    centered = [codes[f"{n}.codes"].astype(np.int64) - scales[f"{n}.zero_point"] for n in "ab"]
    factor = arithmetic.multiplier(scales["a.scale"], scales["b.scale"], scales["y.scale"])
    expected = arithmetic.requantize(centered[0] @ centered[1], factor, 0, 0, 255)

    result = LowerMatMulPass()(qdq)

    assert result.modified
    assert "QLinearMatMul" in ops(result.model)
    for level in LEVELS:
        found = run_onnx(result.model, FEEDS, level=level, expose=["y.codes"])["y.codes"]
        np.testing.assert_array_equal(found, expected, err_msg=level)


def _float_operand(model: ir.Model) -> None:
    next(n for n in model.graph if n.op_type == "MatMul").replace_input_with(1, model.graph.inputs[1])


def _second_user(model: ir.Model) -> None:
    matmul = next(n for n in model.graph if n.op_type == "MatMul")
    model.graph.outputs.append(matmul.outputs[0])


def _too_many_products(model: ir.Model) -> None:
    source = next(n for n in model.graph if n.op_type == "MatMul").inputs[0]
    assert source is not None
    codes = source.producer().inputs[0]  # type: ignore[union-attr]
    assert codes is not None
    codes.shape = ir.Shape([2, 3, 5, 2**31 // 255**2 + 1])


@pytest.mark.parametrize("spoil", [_float_operand, _second_user, _too_many_products])
def test_is_left_alone(spoil: Callable[[ir.Model], None]) -> None:
    model = _model()
    spoil(model)

    assert not LowerMatMulPass()(model).modified


def test_second_run_changes_nothing() -> None:
    model = LowerMatMulPass()(_model()).model

    assert not LowerMatMulPass()(model).modified
