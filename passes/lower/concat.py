"""Lower Concat to Concat of codes, or QLinearConcat."""

from __future__ import annotations

__all__ = ["LowerConcatPass"]

import onnx_ir as ir

from .build import CONTRIB, lower_each, params, refuse, replace
from .match import dequantized, requantization


class LowerConcatPass(ir.passes.InPlacePass):
    """Replace ``DQ(a), DQ(b), ... -> Concat -> Q`` with a Concat of codes.

    Where all inputs have the scale of the output it is Concat itself. Else QLinearConcat brings each of them
    to it, ``rint((code - z) * s / s_y) + z_y``, by a table of the 256 codes.

    A Concat is left alone if an input is not quantized or the result is not only quantized.
    """

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        return lower_each(model, ["Concat"], _lower)


def _lower(graph: ir.Graph, node: ir.Node) -> bool:
    end = requantization(node)
    if end is None:
        return refuse(node, "its result is used before it is quantized")
    parts = []
    for value in node.inputs:
        x = dequantized(value)
        if x is None:
            return refuse(node, "an input is not quantized")
        parts.append(x)
    axis = {"axis": node.attributes.get_int("axis", 1)}
    if all((x.scale, x.zero_point) == (end.scale, end.zero_point) for x in parts):
        inside = end.low <= 0 and end.high >= max(x.high for x in parts)
        concat = ir.node("Concat", [x.value for x in parts], axis, name=node.name)
        return replace(node, end, [concat], clamped=inside)
    inputs = params(graph, end)
    for x in parts:
        inputs += [x.value, *params(graph, x)]
    concat = ir.node("QLinearConcat", inputs, axis, domain=CONTRIB, name=node.name)
    return replace(node, end, [concat])
