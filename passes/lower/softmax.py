"""Lower Softmax to an integer form that is defined to the bit."""

from __future__ import annotations

__all__ = ["LowerSoftmaxPass"]

import numpy as np
import onnx_ir as ir

from .. import functions
from ..constants import constant
from ..values import int_attribute
from .build import lower_each, refuse, replace
from .match import Codes, Requantization, dequantized, requantization
from .written_out import WrittenOut


class LowerSoftmaxPass(ir.passes.InPlacePass):
    """Replace ``DQ(x) -> Softmax -> (Relu | Clip)* -> Q [-> Clip]`` with ``functions.softmax_codes``.

    ``codes = clamp(rint(e / (sum(e) * s_y)) + z_y)`` with ``e = exponentials[max(x) - x]``: a table of
    integers for the exponential function, sums that are exact in any order, one IEEE operation at a time.
    QLinearSoftmax is no alternative: it sums real exponentials, in an order of its own.

    The sum is in float32 over up to 256 codes, in float64 over more, or over an unknown number: the same
    integer.

    Left alone: an input that is not quantized, and a result that is not only quantized.
    """

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        return lower_each(model, ["Softmax"], _lower)


def _lower(graph: ir.Graph, node: ir.Node) -> bool:
    x = dequantized(node.inputs[0])
    if x is None:
        return refuse(node, "its input is not quantized")
    end = requantization(node)
    if end is None:
        return refuse(node, "its result is used before it is quantized")
    return replace(node, end, _written_out(graph, node, x, end), clamped=True)


def _written_out(graph: ir.Graph, node: ir.Node, x: Codes, end: Requantization) -> list[ir.Node]:
    written = WrittenOut(graph, node)

    def real(op_type: str, label: str, *inputs: ir.Value, **attributes: int) -> ir.Value:
        return written.add(op_type, label, list(inputs), ir.DataType.FLOAT, **attributes)

    def number(value: int) -> ir.Value:
        return constant(graph, f"float{value}", np.float32(value))

    axis = int_attribute(node, "axis", -1)
    axes = constant(graph, f"axis{axis}", np.array([axis]))
    largest = written.add("ReduceMax", "max", [x.value, axes], ir.DataType.UINT8, keepdims=1)
    largest = written.cast("max.int32", largest, ir.DataType.INT32)
    codes = written.cast("int32", x.value, ir.DataType.INT32)
    distance = written.add("Sub", "distance", [largest, codes], ir.DataType.INT32)
    table = constant(graph, f"{x.name}.exponentials", functions.softmax_exponentials(float(x.scale)))
    e = written.reshape(written.look_up(distance, table, x.value), x.value)
    length = x.value.shape[axis] if x.value.shape is not None else None
    if isinstance(length, int) and length <= functions.FLOAT32_SUM:
        total = real("ReduceSum", "sum", e, axes, keepdims=1)
    else:
        double = ir.DataType.DOUBLE
        wide = written.cast("double", e, double)
        total = written.add("ReduceSum", "sum.double", [wide, axes], double, keepdims=1)
        total = written.cast("sum", total, ir.DataType.FLOAT)
    total = real("Mul", "sum.scaled", total, constant(graph, f"{end.name}.scale", end.scale))
    result = real("Round", "rounded", real("Div", "over_scale", e, total))
    if end.zero_point:
        result = real("Add", "shifted", result, number(end.zero_point))
    most = end.zero_point + int(1 / float(end.scale) * (1 + 1e-6) + 0.5)  # the code of 1, and a little more
    if end.low > end.zero_point or end.high < most:
        result = real("Clip", "clamped", result, number(end.low), number(end.high))
    written.cast("codes", result, ir.DataType.UINT8)
    return written.nodes
