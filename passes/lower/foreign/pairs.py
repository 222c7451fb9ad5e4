"""Remove QuantizeLinear nodes that repeat others."""

from __future__ import annotations

__all__ = ["MergePairsPass", "same_grid"]

import logging

import numpy as np
import onnx_ir as ir

from ...constants import scalar_of
from ...values import is_op

logger = logging.getLogger(__name__)


class MergePairsPass(ir.passes.InPlacePass):
    """Quantize each value once.

    - ``QuantizeLinear (x, s, z)`` twice becomes one, whose codes all use.
    - ``QuantizeLinear (DequantizeLinear (c, s, z), s, z)`` becomes ``c``: ``rint ((c - z) * s / s)`` is
      ``c - z`` again, as both are integers below 2**16.

    Left alone: another scale or zero point, more than one of them, and codes that are graph outputs.
    """

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        merged = 0
        for node in list(model.graph):
            if node.graph is None or not is_op(node, "QuantizeLinear"):
                continue  # removed already, or another operator
            if not node.outputs[0].is_graph_output():
                merged += _cancel(node) or _merge(node)
        if merged:
            logger.info("Removed %d repeated QuantizeLinear", merged)
        return ir.passes.PassResult(model, modified=bool(merged))


def same_grid(one: ir.Node, other: ir.Node) -> bool:
    """Whether two Q or DQ have the same scale and zero point, one of each."""
    for index in (1, 2):
        found = [scalar_of(node.inputs[index]) if len(node.inputs) > index else None for node in (one, other)]
        if found[0] is None or found[1] is None or found[0].dtype != found[1].dtype or found[0] != found[1]:
            return False
    return True


def _cancel(quantize: ir.Node) -> bool:
    real = quantize.inputs[0]
    dequantize = real.producer() if real is not None else None
    if dequantize is None or not is_op(dequantize, "DequantizeLinear") or not same_grid(dequantize, quantize):
        return False
    codes, scale = dequantize.inputs[0], scalar_of(quantize.inputs[1])
    if codes is None or scale is None or not np.float32(scale) >= np.finfo(np.float32).tiny:
        return False
    return _replace(quantize, codes)


def _merge(quantize: ir.Node) -> bool:
    real, graph = quantize.inputs[0], quantize.graph
    assert real is not None  # QuantizeLinear always has one
    for use in real.uses():
        other = use.node
        if other is quantize or not is_op(other, "QuantizeLinear") or other.graph is not graph:
            continue
        if same_grid(other, quantize) and not other.outputs[0].is_graph_output():
            return _first(other, quantize)
    return False


def _first(one: ir.Node, other: ir.Node) -> bool:
    """Keep the one of two that comes first in the graph."""
    graph = one.graph
    assert graph is not None
    kept = next(node for node in graph if node is one or node is other)
    gone = other if kept is one else one
    return _replace(gone, kept.outputs[0])


def _replace(node: ir.Node, codes: ir.Value) -> bool:
    node.outputs[0].replace_all_uses_with(codes)
    assert node.graph is not None
    node.graph.remove(node, safe=True)
    return True
