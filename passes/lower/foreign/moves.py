"""Give what only moves codes a pair of its own, before and behind."""

from __future__ import annotations

__all__ = ["QuantizeMovesPass"]

import logging

import onnx_ir as ir

from ... import metadata
from ...placement import CLAMPS, is_pass_through
from ...values import is_op, only_user, unused_name
from ..match import dequantized, requantization
from .activations import code_shift, codes_of
from .pairs import same_grid

logger = logging.getLogger(__name__)


class QuantizeMovesPass(ir.passes.InPlacePass):
    """Put QuantizeLinear, DequantizeLinear where a file leaves them out around MaxPool, Reshape and the like.

    Before: ``DequantizeLinear -> MaxPool -> Conv`` and ``Conv -> Reshape -> QuantizeLinear``
    After:  ``DequantizeLinear -> MaxPool -> QuantizeLinear -> DequantizeLinear -> Conv`` and
    ``Conv -> QuantizeLinear -> DequantizeLinear -> Reshape -> QuantizeLinear``

    Exact: what is moved is on the grid already, and moving, choosing and bounding by 0 commute with
    rounding. So does the Clip of narrower codes, which the pair gets too.

    Left alone: results that are only quantized to the same grid, or only outputs of the graph; a Clip with
    bounds that need not lie on the grid.
    """

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        added = sum(_behind(model.graph, node) for node in list(model.graph))
        added += sum(_before(model.graph, node) for node in reversed(list(model.graph)))
        if added:
            logger.info("Quantized %d moved values", added)
        return ir.passes.PassResult(model, modified=bool(added))


def _behind(graph: ir.Graph, node: ir.Node) -> int:
    """Quantize again what a node moves."""
    x, end = dequantized(node.inputs[0]) if node.inputs else None, requantization(node)
    if x is None or not is_pass_through(node) or is_op(node, "Clip"):
        return 0
    if end is not None and (is_op(node, "Relu") or (end.scale, end.zero_point) == (x.scale, x.zero_point)):
        return 0  # codes it is, behind a bound at most; a Relu bounds codes of whatever scale
    source = node.inputs[0].producer() if node.inputs[0] is not None else None
    assert source is not None  # dequantized() has looked
    added = 0
    for value in node.outputs:
        users = [use.node for use in value.uses()]
        if any(not (is_op(user, "QuantizeLinear") and same_grid(user, source)) for user in users):
            _insert(graph, value, source, users=[(use.node, use.idx) for use in value.uses()])
            added += 1
    return added


def _before(graph: ir.Graph, quantize: ir.Node) -> int:
    """Quantize what a node computes, and not what is moved of it."""
    if not is_op(quantize, "QuantizeLinear") or code_shift(quantize) is None:
        return 0
    added, value = 0, quantize.inputs[0]
    while value is not None and only_user(value) is not None:
        node = value.producer()
        if node is None or len(node.outputs) != 1 or not is_pass_through(node):
            break
        source = node.inputs[0]
        if source is None or source.is_initializer() or only_user(source) is not node:
            break
        if is_op(source.producer(), "DequantizeLinear"):
            break
        if not is_op(node, *CLAMPS):  # these are part of the quantization
            _insert(graph, source, quantize, users=[(node, 0)])
            added += 1
        value = source
    return added


def _insert(graph: ir.Graph, value: ir.Value, like: ir.Node, *, users: list[tuple[ir.Node, int]]) -> None:
    """Let users of a value use it behind a pair with the scale, zero point and Clip of ``like``."""
    held = like.inputs[0] if is_op(like, "DequantizeLinear") else codes_of(like)
    clip = held.producer() if held is not None else None
    nodes = [ir.node("QuantizeLinear", [value, *like.inputs[1:]])]
    notes = {}
    if clip is not None and is_op(clip, "Clip"):
        nodes.append(ir.node("Clip", [nodes[0].outputs[0], *clip.inputs[1:]]))
        notes = {k: v for k, v in like.metadata_props.items() if k == metadata.BITS}
    zero = like.inputs[2] if len(like.inputs) > 2 else None
    for made in nodes:
        codes, name = made.outputs[0], str(value.name)
        codes.name = unused_name(graph, metadata.codes_name(name) if made is nodes[-1] else f"{name}.wide")
        codes.type = ir.TensorType((zero.dtype if zero else None) or ir.DataType.UINT8)
        codes.shape = value.shape
    nodes.append(ir.node("DequantizeLinear", [nodes[-1].outputs[0], *like.inputs[1:]], metadata_props=notes))
    real = nodes[-1].outputs[0]
    real.name, real.type, real.shape = unused_name(graph, f"{value.name}.dq"), value.type, value.shape
    for made in nodes:
        made.name = made.outputs[0].name
    for user, index in users:
        user.replace_input_with(index, real)
    producer = value.producer()
    first = next(iter(graph))
    if producer is None:
        graph.insert_before(first, nodes)
    else:
        graph.insert_after(producer, nodes)
