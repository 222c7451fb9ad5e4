"""QLinearConv, QGemm and QLinearMatMul with codes in float32."""

from __future__ import annotations

__all__ = ["FORMS"]

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from .. import arithmetic
from ..values import array, int_attribute
from . import contrib, sums
from .build import CONTRIB
from .carriers import Carrier, Side, note_weight, parameters, side

_FLOAT, _DOUBLE = ir.DataType.FLOAT, ir.DataType.DOUBLE


def _conv(steps: Carrier, node: ir.Node) -> ir.Value | None:
    x, y, weight = side(node, 0), parameters(node, 6), _Weight.of(node)
    if x is None or y is None or weight is None:
        return None
    codes, rank = weight.codes, weight.codes.ndim
    bias = array(node.inputs[8]) if len(node.inputs) > 8 else None

    def multiply(left: ir.Value, right: ir.Value, held: ir.Value | None) -> ir.Value:
        inputs = (left, right) if held is None else (left, right, held)
        made = steps("Conv", *inputs)
        steps.nodes[-1].attributes.update(node.attributes)
        return made

    terms = sums.Sum(
        steps.real(x, 1),
        weight.real(steps, node),
        np.abs(codes).reshape(*codes.shape[:2], -1).sum(axis=2) * _largest(x),
        left_axis=1,
        right_axis=1,
        rank=rank,
        bias=None if bias is None else bias.astype(np.int64),
        group=int_attribute(node, "group", 1),
    )
    total = _layer(steps, node, sums.accumulate(steps, terms, multiply))
    if total is None:
        return None
    factor = arithmetic.multiplier(x.scale, np.broadcast_to(weight.scale, len(codes)), y[0])
    column = steps.own("factor", factor.reshape(-1, *[1] * (rank - 2)))
    return steps.codes(steps("Mul", total, column), y[1])


def _gemm(steps: Carrier, node: ir.Node) -> ir.Value | None:
    x, y, weight = side(node, 0), parameters(node, 7), _Weight.of(node)
    if x is None or weight is None or int_attribute(node, "transB", 0) != 1:
        return None
    bias = array(node.inputs[6]) if len(node.inputs) > 6 else None

    def multiply(left: ir.Value, right: ir.Value, held: ir.Value | None) -> ir.Value:
        inputs = (left, right) if held is None else (left, right, held)
        return steps("Gemm", *inputs, transB=1)

    terms = sums.Sum(
        steps.real(x, 1),
        weight.real(steps, node),
        np.abs(weight.codes) * _largest(x),
        left_axis=1,
        right_axis=1,
        rank=2,
        bias=None if bias is None else bias.astype(np.int64),
    )
    total = _layer(steps, node, sums.accumulate(steps, terms, multiply))
    if total is None:
        return None
    if y is None:
        return steps("Mul", total, steps.own("factor", x.scale * weight.scale))
    factor = arithmetic.multiplier(x.scale, weight.scale, y[0])
    return steps.codes(steps("Mul", total, steps.own("factor", factor)), y[1])


def _matmul(steps: Carrier, node: ir.Node) -> ir.Value | None:
    """Of two activations; float64 where it is not known how many products are summed."""
    a, b, y = side(node, 0), side(node, 3), parameters(node, 6)
    if a is None or b is None or y is None:
        return None
    left, right = steps.real(a, 1), steps.real(b, 1)
    shape = a.value.shape
    summed = shape[-1] if shape is not None and len(shape) else None
    if isinstance(summed, int):
        bounds = np.full((1, summed), _largest(a) * _largest(b), np.int64)
        terms = sums.Sum(left, right, bounds, left_axis=-1, right_axis=-2, rank=2)
        total = sums.accumulate(steps, terms, lambda left, right, _: steps("MatMul", left, right))
        assert total is not None  # 255 * 255 is far from the limit
    else:
        wide = steps("MatMul", steps.cast(left, _DOUBLE), steps.cast(right, _DOUBLE), dtype=_DOUBLE)
        total = steps.cast(wide, _FLOAT)
    factor = np.float32(arithmetic.multiplier(a.scale, b.scale, y[0]))
    return steps.codes(steps("Mul", total, steps.scalar(factor)), y[1])


class _Weight:
    """The constant operand of a layer: codes without zero point, and scales."""

    def __init__(self, value: ir.Value, codes: NDArray[np.int64], scale: NDArray[np.float32]) -> None:
        self.value, self.codes, self.scale = value, codes, scale

    @classmethod
    def of(cls, node: ir.Node) -> _Weight | None:
        """The weight of an integer layer, if it is int8 and symmetric, as lowering writes it."""
        value, codes, scale = node.inputs[3], array(node.inputs[3]), array(node.inputs[4])
        zero = array(node.inputs[5])
        if value is None or codes is None or scale is None or codes.dtype != np.int8:
            return None
        if zero is None or zero.any():
            return None
        return cls(value, codes.astype(np.int64), scale)

    def real(self, steps: Carrier, node: ir.Node) -> ir.Value:
        """The codes as float32, to be computed once, while the file is loaded."""
        real = steps.cast(self.value, _FLOAT)
        real.shape = self.value.shape
        note_weight(steps.nodes[-1], node)
        return real


def _largest(x: Side) -> int:
    """The largest magnitude of a centered code."""
    low, high = sums.code_bounds(x.value)
    return max(abs(low - x.zero), abs(high - x.zero))


def _layer(steps: Carrier, node: ir.Node, total: ir.Value | None) -> ir.Value | None:
    """Note on the first of the operators that multiply whose weight it is."""
    if total is not None:
        first = next(made for made in steps.nodes if made.op_type in ("Conv", "Gemm"))
        note_weight(first, node)
    return total


FORMS: dict[tuple[str, str], contrib.Form] = {
    ("", "QLinearConv"): _conv,
    ("", "QLinearMatMul"): _matmul,
    (CONTRIB, "QGemm"): _gemm,
}
"""By domain and operator."""
