"""Keep what stays float as it is, between the codes around it."""

from __future__ import annotations

__all__ = ["WriteOutIslandsPass"]

import dataclasses
import logging

import numpy as np
import onnx_ir as ir

from .. import metadata
from ..constants import constant
from ..placement import MOVES
from ..values import is_op, unused_name
from .build import REASON, replace, shaped
from .match import dequantized, requantization

logger = logging.getLogger(__name__)

_PRODUCTS = ("Gemm", "MatMul")
_NO_ISLAND = (*MOVES, "Dropout", "QuantizeLinear", "DequantizeLinear")


class WriteOutIslandsPass(ir.passes.InPlacePass):
    """Keep the operators that compute in float as they are, between DequantizeLinear and QuantizeLinear.

    ONNX Runtime makes one integer operator, of a rounding of its own, of DequantizeLinear, an operator and
    QuantizeLinear. So ``op -> Q`` becomes ``op -> Div -> Q`` of scale 1, which is the same arithmetic. Of
    DequantizeLinear and a product it makes one without ``Q`` too, and the Div it makes part of a MatMul:
    there a Max with the least number stands behind ``DQ``, and ``Q`` stays. Every operator between them
    gets the note ``mpqtool.island`` with the reason.

    Left alone: QuantizeLinear of a graph input, less its offset or not, DequantizeLinear of a constant, and
    what is part of an exact form.

    Run last among the lowering passes: what this pass has seen is not lowered any more.
    """

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        graph = model.graph
        nodes = [node for node in graph if metadata.EXACT not in node.metadata_props]
        ends = sum(_end(graph, node) for node in nodes if node.op_type == "QuantizeLinear")
        starts = sum(_guard(graph, node) for node in nodes if node.op_type == "DequantizeLinear")
        islands = sum(_note(node) for node in nodes if node.graph is graph)
        if islands:
            logger.info("Left %d operators in float", islands)
        return ir.passes.PassResult(model, modified=bool(ends + starts + islands))


def _guard(graph: ir.Graph, node: ir.Node) -> bool:
    """Keep DequantizeLinear apart from products."""
    real = node.outputs[0]
    uses = [use for use in real.uses() if metadata.EXACT not in use.node.metadata_props]
    if dequantized(real) is None or not any(_is_product(use.node) for use in uses):
        return False
    least = constant(graph, "float_min", np.finfo(np.float32).min)
    guard = ir.node("Max", [real, least], metadata_props={metadata.EXACT: "island"})
    name = unused_name(graph, f"{real.name}.guarded")
    guard.name = name
    shaped(guard.outputs[0], name, ir.DataType.FLOAT, real)
    for use in uses:
        use.node.replace_input_with(use.idx, guard.outputs[0])
    graph.insert_after(node, guard)
    return True


def _is_product(node: ir.Node) -> bool:
    """Whether it is a product, or something behind it is that ONNX Runtime would move DequantizeLinear to."""
    if is_op(node, *_PRODUCTS):
        return True
    moves = is_op(node, "MaxPool", *MOVES)
    return moves and any(_is_product(use.node) for output in node.outputs for use in output.uses())


def _end(graph: ir.Graph, node: ir.Node) -> bool:
    """Make the codes that an island ends in."""
    source = node.inputs[0]
    assert source is not None
    shift = source.producer()
    if shift is not None and metadata.OFFSET in shift.metadata_props:  # the Sub of an offset
        source = shift.inputs[0]
        assert source is not None
    end = requantization(node)
    if source.is_graph_input() or end is None or metadata.ISLAND in node.metadata_props:
        return False
    new, inputs = [], list(node.inputs)
    if not is_op(source.producer(), *_PRODUCTS):
        new.append(ir.node("Div", [node.inputs[0], constant(graph, f"{end.name}.scale", end.scale)]))
        new[0].name = unused_name(graph, f"{end.codes.name}.div")
        new[0].metadata_props[metadata.EXACT] = "island"
        inputs[:2] = [
            shaped(new[0].outputs[0], new[0].name, ir.DataType.FLOAT, end.codes),
            constant(graph, "float1", np.float32(1)),
        ]
    new.append(ir.node("QuantizeLinear", inputs))
    if (end.low, end.high) != (0, 255):
        new[-1].metadata_props[metadata.EXACT] = "island"
        name = unused_name(graph, f"{end.codes.name}.wide")
        low, high = (constant(graph, f"code{code}", np.uint8(code)) for code in (end.low, end.high))
        wide = shaped(new[-1].outputs[0], name, ir.DataType.UINT8, end.codes)
        new.append(ir.node("Clip", [wide, low, high]))
    new[-1].metadata_props[metadata.ISLAND] = ""
    behind = dataclasses.replace(end, nodes=tuple(n for n in end.nodes if n is not node))
    return replace(node, behind, new, clamped=True)


def _note(node: ir.Node) -> bool:
    """Stamp an operator that computes in float; moving float values about is no island."""
    # What is in our own domain here is a unit of the normal form, such as Silu.
    known = node.domain not in ("", metadata.DOMAIN) or node.op_type in _NO_ISLAND
    if known or metadata.ISLAND in node.metadata_props or metadata.EXACT in node.metadata_props:
        return False
    if not node.outputs or node.outputs[0].dtype not in (None, ir.DataType.FLOAT):
        return False
    node.metadata_props[metadata.ISLAND] = node.meta.get(REASON, "it has no integer form")
    return True
