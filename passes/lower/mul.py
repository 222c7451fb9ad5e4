"""Lower Mul of two activations, and Mul and Div by a positive number."""

from __future__ import annotations

__all__ = ["LowerMulPass"]

import onnx_ir as ir

from .. import metadata
from ..placement import factor_of, moved_input
from ..values import array
from .build import CONTRIB, lower_each, params, refuse, replace
from .match import dequantized, requantization


class LowerMulPass(ir.passes.InPlacePass):
    """Replace ``DQ(a), DQ(b) -> Mul -> (Relu | Clip)* -> Q [-> Clip]`` with QLinearMul.

    ``codes = clamp(rint((a - z_a) * (b - z_b) * float32(float32(s_a * s_b) / s_y) + z_y))``. QLinearMul
    rounds after each of these steps, on every x86 CPU, so it is exact with any scales.

    ``DQ(x) -> Mul or Div by a positive number -> Q`` becomes Identity where the scale behind is that before
    times the number: what it does to the real values, it does to their scale.

    A Mul or Div is left alone if an input is not quantized, the result is not only quantized, or it is by a
    constant that is an array, not positive, or does not lead to the scale of the result.
    """

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        return lower_each(model, ["Mul", "Div"], _lower)


def _lower(graph: ir.Graph, node: ir.Node) -> bool:
    if metadata.EXACT in node.metadata_props:
        return False
    factor = factor_of(node)
    if factor is not None:
        x = dequantized(moved_input(node))
        if x is None:
            return refuse(node, "its input is not quantized")
        end = requantization(node)
        if end is None:
            return refuse(node, "its result is used before it is quantized")
        if (end.scale, end.zero_point) != (x.scale * factor, x.zero_point):
            return refuse(node, "its result has another scale than its input times the constant")
        inside = end.low <= 0 and end.high >= x.high
        return replace(node, end, [ir.node("Identity", [x.value], name=node.name)], clamped=inside)
    if any(array(value) is not None for value in node.inputs):
        return refuse(node, "its constant is not one positive number")
    if node.op_type == "Div":
        return False
    a, b = (dequantized(value) for value in node.inputs)
    if a is None or b is None:
        return refuse(node, "an input is not quantized")
    end = requantization(node)
    if end is None:
        return refuse(node, "its result is used before it is quantized")
    inputs = [a.value, *params(graph, a), b.value, *params(graph, b), *params(graph, end)]
    return replace(node, end, [ir.node("QLinearMul", inputs, domain=CONTRIB, name=node.name)])
