"""Write out the quantization around operators that stay float."""

from __future__ import annotations

__all__ = ["WriteOutIslandsPass"]

import logging

import numpy as np
import onnx_ir as ir

from .. import metadata
from ..constants import constant
from ..placement import MOVES
from ..values import unused_name
from .build import REASON, shaped
from .match import Codes, dequantized, requantization

logger = logging.getLogger(__name__)

_NO_ISLAND = (*MOVES, "Dropout", "QuantizeLinear", "DequantizeLinear")


class WriteOutIslandsPass(ir.passes.InPlacePass):
    """Turn what is left of DequantizeLinear and QuantizeLinear into elementwise operators.

    ``DQ`` becomes ``Cast, Sub, Mul`` and ``Q`` becomes ``Div, Round, Add, Clip, Cast``: the same real
    numbers, which ONNX Runtime does not fuse with the operator between them into an integer one of
    its own rounding. Every operator between them gets the note ``mpqtool.island`` with the reason.

    Left alone: QuantizeLinear of a graph input, DequantizeLinear that makes a graph output, and
    DequantizeLinear of a constant.

    Run last among the lowering passes: what this pass has seen is not lowered any more.
    """

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        graph = model.graph
        nodes = list(graph)
        ends = sum(_write_quantize(graph, node) for node in nodes if node.op_type == "QuantizeLinear")
        starts = sum(_write_dequantize(graph, node) for node in nodes if node.op_type == "DequantizeLinear")
        islands = sum(_note(node) for node in nodes if node.graph is graph)
        if islands:
            logger.info("Left %d operators in float", islands)
        return ir.passes.PassResult(model, modified=bool(ends + starts + islands))


def _write_dequantize(graph: ir.Graph, node: ir.Node) -> bool:
    real = node.outputs[0]
    x = dequantized(real)
    uses = tuple(real.uses())
    if x is None or not uses:
        return False
    new = _elementwise(graph, x, str(real.name))
    for use in uses:
        use.node.replace_input_with(use.idx, new[-1].outputs[0])
    graph.insert_after(node, new)
    return True


def _elementwise(graph: ir.Graph, x: Codes, name: str) -> list[ir.Node]:
    nodes = [ir.node("Cast", [x.value], {"to": ir.DataType.FLOAT.value})]
    if x.zero_point:
        zero = constant(graph, f"float{x.zero_point}", np.float32(x.zero_point))
        nodes.append(ir.node("Sub", [nodes[-1].outputs[0], zero]))
    scale = constant(graph, f"{x.name}.scale", x.scale)
    nodes.append(ir.node("Mul", [nodes[-1].outputs[0], scale]))
    return _named(graph, nodes, name, x.value)


def _write_quantize(graph: ir.Graph, node: ir.Node) -> bool:
    source = node.inputs[0]
    assert source is not None
    if source.is_graph_input():
        return False
    end = requantization(node)
    if end is None:
        return False
    nodes = [ir.node("Div", [source, constant(graph, f"{end.name}.scale", end.scale)])]
    nodes.append(ir.node("Round", [nodes[-1].outputs[0]]))
    if end.zero_point:
        zero = constant(graph, f"float{end.zero_point}", np.float32(end.zero_point))
        nodes.append(ir.node("Add", [nodes[-1].outputs[0], zero]))
    low = constant(graph, f"float{end.low}", np.float32(end.low))
    high = constant(graph, f"float{end.high}", np.float32(end.high))
    nodes.append(ir.node("Clip", [nodes[-1].outputs[0], low, high]))
    _named(graph, nodes, f"{end.codes.name}.from", end.codes)
    nodes.append(ir.node("Cast", [nodes[-1].outputs[0]], {"to": ir.DataType.UINT8.value}))
    new = shaped(nodes[-1].outputs[0], str(end.codes.name), ir.DataType.UINT8, end.codes)
    nodes[-1].name = new.name
    nodes[-1].metadata_props.update({metadata.ISLAND: "", metadata.BITS: str(end.bits)})
    old = [node, *(n for n in end.nodes if n is not node)]
    ir.convenience.replace_nodes_and_values(graph, node, old, nodes, [end.codes], [new])
    return True


def _named(graph: ir.Graph, nodes: list[ir.Node], name: str, like: ir.Value) -> list[ir.Node]:
    for node in nodes:
        free = unused_name(graph, f"{name}.{node.op_type.lower()}")
        shaped(node.outputs[0], free, ir.DataType.FLOAT, like)
        node.name = node.outputs[0].name
        node.metadata_props[metadata.EXACT] = "island"
    return nodes


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
