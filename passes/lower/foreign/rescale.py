"""Give codes that only change their scale an operator that does it."""

from __future__ import annotations

__all__ = ["RescalePass"]

import logging

import onnx_ir as ir

from ...placement import CLAMPS
from ...values import is_op, unused_name
from ..match import dequantized, requantization

logger = logging.getLogger(__name__)


class RescalePass(ir.passes.InPlacePass):
    """Put a Concat of one value between a DequantizeLinear and a QuantizeLinear of another scale.

    Before: ``DequantizeLinear (c, s, z) -> (Relu | Clip)* -> QuantizeLinear (s', z')``
    After:  ``DequantizeLinear (c, s, z) -> Concat -> (Relu | Clip)* -> QuantizeLinear (s', z')``

    A Concat has an integer form that changes scales.

    Left alone: values of unknown rank or rank 0, and codes of other types than uint8.
    """

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        added = sum(_separate(model.graph, node) for node in list(model.graph))
        if added:
            logger.info("Found %d values that change their scale", added)
        return ir.passes.PassResult(model, modified=bool(added))


def _separate(graph: ir.Graph, node: ir.Node) -> bool:
    if not is_op(node, "QuantizeLinear", *CLAMPS):
        return False
    real = node.inputs[0]
    x, end = dequantized(real), requantization(node)
    if real is None or x is None or end is None or not real.shape:
        return False
    if is_op(node, *CLAMPS) and (x.scale, x.zero_point) == (end.scale, end.zero_point):
        return False  # the clamp is one of the codes
    join = ir.node("Concat", [real], {"axis": 0})
    same = join.outputs[0]
    same.name, same.type, same.shape = unused_name(graph, f"{real.name}.rescaled"), real.type, real.shape
    join.name = same.name
    node.replace_input_with(0, same)
    graph.insert_before(node, join)
    return True
