"""Put integer operators in the place of float ones."""

from __future__ import annotations

__all__ = ["CONTRIB", "lower_each", "params", "refuse", "replace", "shaped", "weight_inputs", "zero_point"]

import logging
from collections.abc import Callable, Sequence

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from .. import metadata
from ..constants import constant
from ..values import unused_name
from .match import Codes, Requantization, Weight

logger = logging.getLogger(__name__)

CONTRIB = "com.microsoft"
"""The domain of the integer operators that ONNX itself lacks."""

REASON = "mpqtool.reason"


def lower_each(
    model: ir.Model, op_types: Sequence[str], lower: Callable[[ir.Graph, ir.Node], bool]
) -> ir.passes.PassResult:
    """Try ``lower`` on every node of the standard domain with one of the operator types.

    Those that are to stay float (``KeepFloatPass``) are passed over.
    """
    nodes = [
        node
        for node in model.graph
        if node.domain == "" and node.op_type in op_types and metadata.FLOAT not in node.metadata_props
    ]
    done = sum(lower(model.graph, node) for node in nodes)
    if done:
        logger.info("Lowered %d of %d %s", done, len(nodes), "/".join(op_types))
    return ir.passes.PassResult(model, modified=bool(done))


def refuse(node: ir.Node, reason: str) -> bool:
    """Note why an operator stays float; False, for the caller to return."""
    node.meta[REASON] = reason
    logger.debug("%s stays float: %s", node.name, reason)
    return False


def params(graph: ir.Graph, side: Codes | Requantization) -> list[ir.Value]:
    """Scale and zero point as rank-0 initializers, which every QLinear operator takes."""
    return [
        constant(graph, f"{side.name}.scale", side.scale),
        constant(graph, f"{side.name}.zero_point", np.uint8(side.zero_point)),
    ]


def weight_inputs(graph: ir.Graph, weight: Weight) -> list[ir.Value]:
    """Codes, scale and zero point of a weight, as QLinearConv takes them."""
    stored: NDArray[np.integer] = weight.codes
    zero = zero_point(graph, np.int8(0))
    if weight.zero_point is not None:
        offset = weight.zero_point.astype(np.int16)
        stored = (stored + offset.reshape(-1, *[1] * (stored.ndim - 1))).astype(np.uint8)
        zero = constant(graph, f"{weight.name}.zero_point", weight.zero_point)
    return [
        constant(graph, metadata.codes_name(weight.name), stored),
        constant(graph, f"{weight.name}.scale", np.ascontiguousarray(weight.scale)),
        zero,
    ]


def zero_point(graph: ir.Graph, zero: np.int8 | np.uint8) -> ir.Value:
    """The rank-0 zero point that all weights of a type share."""
    return constant(graph, f"zero_{zero.dtype}", zero)


def shaped(value: ir.Value, name: str, dtype: ir.DataType, like: ir.Value) -> ir.Value:
    """Set name, type and shape of a new value; ONNX cannot infer them behind contrib operators."""
    value.name, value.type, value.shape = name, ir.TensorType(dtype), like.shape
    return value


def replace(node: ir.Node, end: Requantization, new: Sequence[ir.Node], *, clamped: bool = False) -> bool:
    """Put ``new`` in the place of an operator and its requantization; True, for the caller to return.

    Args:
        node: The float operator.
        end: What followed it.
        new: Nodes whose last one makes the codes, in 0 to 255.
        clamped: Whether it makes them in ``end.low`` to ``end.high`` already.
    """
    graph = node.graph
    assert isinstance(graph, ir.Graph)  # lower_each looks at one
    name, nodes = str(end.codes.name), list(new)
    last = nodes[-1].outputs[0]
    if not clamped and (end.low, end.high) != (0, 255):
        shaped(last, unused_name(graph, f"{name}.wide"), ir.DataType.UINT8, end.codes)
        low = constant(graph, f"code{end.low}", np.uint8(end.low))
        high = constant(graph, f"code{end.high}", np.uint8(end.high))
        nodes.append(ir.node("Clip", [last, low, high]))
        last = nodes[-1].outputs[0]
    shaped(last, name, ir.DataType.UINT8, end.codes)
    nodes[-1].metadata_props[metadata.BITS] = str(end.bits)
    for made in nodes:
        made.name = made.name or (made.outputs[0].name if made.outputs[0].name else None)
    ir.convenience.replace_nodes_and_values(graph, node, [node, *end.nodes], nodes, [end.codes], [last])
    return True
