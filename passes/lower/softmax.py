"""Lower Softmax to an integer form that is defined to the bit."""

from __future__ import annotations

__all__ = ["LowerSoftmaxPass"]

import numpy as np
import onnx_ir as ir

from .. import functions
from ..values import int_attribute
from .build import lower_each, refuse, replace
from .match import Codes, Requantization, dequantized, requantization
from .steps import Steps


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
    end = requantization(node, with_offset=True)
    if end is None:
        return refuse(node, "its result is used before it is quantized")
    return replace(node, end, _written_out(graph, node, x, end), clamped=True)


def _written_out(graph: ir.Graph, node: ir.Node, x: Codes, end: Requantization) -> list[ir.Node]:
    steps, int32 = Steps(graph, node), ir.DataType.INT32

    def real(op_type: str, label: str, *inputs: ir.Value, like: ir.Value | None = None) -> ir.Value:
        return steps.add(op_type, inputs, ir.DataType.FLOAT, label=label, like=like)

    def number(value: int) -> ir.Value:
        return steps.number(f"float{value}", np.float32(value))

    axis = int_attribute(node, "axis", -1)
    axes = steps.number(f"axis{axis}", np.array([axis]))
    largest = steps.add("ReduceMax", [x.value, axes], ir.DataType.UINT8, label="max", keepdims=1)
    largest = steps.cast(largest, int32, label="max.int32")
    codes = steps.cast(x.value, int32, label="int32")
    distance = steps.add("Sub", [largest, codes], int32, label="distance", like=x.value)
    table = steps.number(f"{x.name}.exponentials", functions.softmax_exponentials(float(x.scale)))
    e = steps.looked_up(distance, table, x.value)
    length = x.value.shape[axis] if x.value.shape is not None else None
    narrow = isinstance(length, int) and length <= functions.FLOAT32_SUM
    terms = e if narrow else steps.cast(e, ir.DataType.DOUBLE, label="double")
    assert terms.dtype is not None  # the one of the two lines above
    total = steps.add("ReduceSum", [terms, axes], terms.dtype, label="sum", keepdims=1)
    if not narrow:
        total = steps.cast(total, ir.DataType.FLOAT, label="sum.float")
    total = real("Mul", "sum.scaled", total, steps.number(f"{end.name}.scale", end.scale))
    result = real("Div", "over_scale", e, total, like=e)
    if end.offset:
        less = steps.number(f"{end.name}.less", end.offset / end.scale)
        result = real("Sub", "less", result, less, like=e)
    result = real("Round", "rounded", result, like=e)
    if end.zero_point:
        result = real("Add", "shifted", result, number(end.zero_point), like=e)
    most = end.zero_point + int(1 / float(end.scale) * (1 + 1e-6) + 0.5)  # the code of 1, and a little more
    if end.offset or end.low > end.zero_point or end.high < most:
        result = real("Clip", "clamped", result, number(end.low), number(end.high), like=e)
    steps.cast(result, ir.DataType.UINT8, label="codes")
    return steps.nodes
