"""Lower Concat to QLinearConcat."""

from __future__ import annotations

__all__ = ["LowerConcatPass"]

import onnx_ir as ir

from .build import CONTRIB, lower_each, params, refuse, replace
from .match import dequantized, requantization


class LowerConcatPass(ir.passes.InPlacePass):
    """Replace ``DQ(a), DQ(b), ... -> Concat -> Q`` with QLinearConcat.

    Each input is brought to the scale of the output, ``rint((code - z) * s / s_y) + z_y``; inputs that
    have it already are copied.

    A Concat is left alone if an input is not quantized or the result is not only quantized.
    """

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        return lower_each(model, ["Concat"], _lower)


def _lower(graph: ir.Graph, node: ir.Node) -> bool:
    end = requantization(node)
    if end is None:
        return refuse(node, "its result is used before it is quantized")
    inputs = params(graph, end)
    for value in node.inputs:
        x = dequantized(value)
        if x is None:
            return refuse(node, "an input is not quantized")
        inputs += [x.value, *params(graph, x)]
    axis = {"axis": node.attributes.get_int("axis", 1)}
    concat = ir.node("QLinearConcat", inputs, axis, domain=CONTRIB, name=node.name)
    return replace(node, end, [concat])
