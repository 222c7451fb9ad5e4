"""Lower the operators that only move, choose or bound codes."""

from __future__ import annotations

__all__ = ["LowerMovePass"]

import onnx_ir as ir

from ..placement import CLAMPS, PASS_THROUGH
from .build import lower_each, refuse, replace
from .match import dequantized, requantization


class LowerMovePass(ir.passes.InPlacePass):
    """Let MaxPool, Reshape and the like work on the codes themselves.

    ``DQ(x) -> op -> Q`` with one scale and zero point becomes ``op`` on uint8; a Relu or Clip becomes a
    Clip of the codes. MaxPool commutes with quantization because that is monotone.

    Left alone: another scale behind the operator than before it, and a MaxPool that also gives indices.
    """

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        return lower_each(model, PASS_THROUGH, _lower)


def _lower(graph: ir.Graph, node: ir.Node) -> bool:
    x = dequantized(node.inputs[0])
    if x is None:
        return refuse(node, "its input is not quantized")
    end = requantization(node)
    if end is None:
        return refuse(node, "its result is used before it is quantized")
    if (end.scale, end.zero_point) != (x.scale, x.zero_point):
        return refuse(node, "its result has another scale than its input")
    if len(node.outputs) > 1 and node.outputs[1].uses():
        return refuse(node, "its indices are used")
    inside = end.low <= 0 and end.high >= x.high  # the codes are in the range already
    if node.op_type in CLAMPS:
        moved = ir.node("Identity", [x.value], name=node.name)
    else:
        moved = ir.node(node.op_type, [x.value, *node.inputs[1:]], dict(node.attributes), name=node.name)
    return replace(node, end, [moved], clamped=inside)
