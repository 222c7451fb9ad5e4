"""The operators of domain com.microsoft that need no weights, written out in those of the standard."""

from __future__ import annotations

__all__ = ["FORMS", "Form"]

import math
from collections.abc import Callable

import numpy as np
import onnx_ir as ir

from .. import arithmetic, functions
from ..values import int_attribute
from .carriers import Carrier, Side, parameters, side

Form = Callable[[Carrier, ir.Node], ir.Value | None]
"""Writes the steps of a node; None where it has inputs that lowering never writes."""


def _add(steps: Carrier, node: ir.Node) -> ir.Value | None:
    """``rint((a - z_a) * (s_a / s_y) + (b - z_b) * (s_b / s_y) + z_y)``."""
    sides = _two(node)
    if sides is None:
        return None
    a, b, y_scale, y_zero = sides
    total = steps("Add", steps.real(a, a.scale / y_scale), steps.real(b, b.scale / y_scale))
    return steps.codes(_shifted(steps, total, y_zero), 0)


def _multiply(steps: Carrier, node: ir.Node) -> ir.Value | None:
    """``rint((a - z_a) * (b - z_b) * float32(float32(s_a * s_b) / s_y) + z_y)``."""
    sides = _two(node)
    if sides is None:
        return None
    a, b, y_scale, y_zero = sides
    product = steps("Mul", steps.real(a, 1), steps.real(b, 1))
    factor = np.float32(arithmetic.multiplier(a.scale, b.scale, y_scale))
    return steps.codes(_shifted(steps, steps("Mul", product, steps.scalar(factor)), y_zero), 0)


def _concat(steps: Carrier, node: ir.Node) -> ir.Value | None:
    """``rint((x - z_x) * s_x / s_y) + z_y`` of each input; one that has that scale already is copied."""
    y, sides = parameters(node, 0), [side(node, index) for index in range(2, len(node.inputs), 3)]
    parts = []
    for x in sides:
        if x is None or y is None:
            return None
        if (x.scale, x.zero) == y:
            parts.append(steps.carried(x.value))
            continue
        real = steps("Div", steps.real(x, x.scale), steps.scalar(y[0]), like=x.value)
        parts.append(steps.codes(real, y[1], like=x.value))
    return steps("Concat", *parts, dtype=steps.dtype, axis=int_attribute(node, "axis", 1))


def _average(steps: Carrier, node: ir.Node) -> ir.Value | None:
    """``rint(sum(x - z_x) * (s_x / (s_y * count))) + z_y`` over all spatial dimensions."""
    x, y = side(node, 0), parameters(node, 3)
    shape = x.value.shape if x is not None else None
    if x is None or y is None or shape is None or int_attribute(node, "channels_last", 0):
        return None
    sizes = tuple(shape)[2:]
    known = [size for size in sizes if isinstance(size, int)]
    count = math.prod(known) if len(known) == len(sizes) else None
    terms, axes = steps.real(x, 1), steps.integers(range(2, len(shape)))
    if count is not None and count * 255 < arithmetic.EXACT_BELOW:
        total = steps("ReduceSum", terms, axes, keepdims=1)
    else:
        double = ir.DataType.DOUBLE
        total = steps("ReduceSum", steps.cast(terms, double), axes, dtype=double, keepdims=1)
        total = steps.cast(total, ir.DataType.FLOAT)
    if count is None:
        factor = _mean_multiplier(steps, x, y[0])
    else:
        factor = steps.scalar(np.float32(arithmetic.mean_multiplier(x.scale, y[0], count)))
    return steps.codes(steps("Mul", total, factor), y[1])


def _mean_multiplier(steps: Carrier, x: Side, y_scale: np.float32) -> ir.Value:
    """``s_x / float32(s_y * count)`` of a size that is known only when the file runs."""
    scale, int64 = steps.scalar(x.scale), ir.DataType.INT64
    sizes = steps("Shape", x.value, dtype=int64, start=2)
    sizes.shape = None
    count = steps("ReduceProd", sizes, like=scale, dtype=int64, keepdims=0)
    divisor = steps("Mul", steps.cast(count, ir.DataType.FLOAT), steps.scalar(y_scale), like=scale)
    return steps("Div", scale, divisor, like=scale)


def _table(op_type: str) -> Form:
    """``table[x]``, ``table[i] = quantize(f(dequantize(i)))``."""

    def form(steps: Carrier, node: ir.Node) -> ir.Value | None:
        x, y = side(node, 0), parameters(node, 3)
        if x is None or y is None:
            return None
        attributes = {name: attribute.value for name, attribute in node.attributes.items()}
        reals = functions.outputs(op_type, float(x.scale), x.zero, **attributes)
        codes = arithmetic.quantize(reals, *y, 0, 255)
        if steps.dtype is ir.DataType.FLOAT:
            return steps.looked_up(x.value, steps.own("table", codes.astype(np.float32)), x.value)
        table = steps.own("table", codes.astype(np.int32))
        return steps.looked_up(x.value, table, x.value, cast=steps.dtype)

    return form


def _two(node: ir.Node) -> tuple[Side, Side, np.float32, int] | None:
    """Both sides of a sum or product, and the scale and zero point of its result."""
    a, b, y = side(node, 0), side(node, 3), parameters(node, 6)
    return None if a is None or b is None or y is None else (a, b, *y)


def _shifted(steps: Carrier, real: ir.Value, zero: int) -> ir.Value:
    """With the zero point, which goes in before QLinearAdd and QLinearMul round."""
    return steps("Add", real, steps.scalar(zero)) if zero else real


FORMS: dict[str, Form] = {
    "QLinearAdd": _add,
    "QLinearConcat": _concat,
    "QLinearGlobalAveragePool": _average,
    "QLinearLeakyRelu": _table("LeakyRelu"),
    "QLinearMul": _multiply,
    "QLinearSigmoid": _table("Sigmoid"),
}
"""By operator."""
