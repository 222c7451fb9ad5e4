"""Compute once what a file quantizes again at each run: its constants."""

from __future__ import annotations

__all__ = ["WIDTH", "FoldQuantizedConstantsPass", "along", "block_size"]

import logging
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from ... import arithmetic
from ...constants import scalar_of
from ...values import add_initializer, array, int_attribute, is_op

logger = logging.getLogger(__name__)

WIDTH = "mpqtool.foreign.range"
"""On the DequantizeLinear of a constant, while lowering: the codes that a Clip before it lets through."""


class FoldQuantizedConstantsPass(ir.passes.InPlacePass):
    """Replace ``constant -> QuantizeLinear [-> Clip]`` and ``constant codes -> Clip`` with codes.

    Before: ``DequantizeLinear (Clip (QuantizeLinear (w, s, z), -8, 7), s, z)``
    After:  ``DequantizeLinear (w_codes, s, z)``, with a note that the codes are -8 to 7

    ``Transpose (DequantizeLinear (w, s, z))`` becomes the DequantizeLinear of transposed codes.

    A DequantizeLinear of one number, such as the bound of a Clip, becomes that number.

    Left alone: scales that are computed or given block by block, and float codes.
    """

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        folded = 0
        for node in list(model.graph):
            if is_op(node, "QuantizeLinear"):
                folded += _fold_quantize(model.graph, node)
            elif is_op(node, "Clip"):
                folded += _fold_clip(model.graph, node)
            elif is_op(node, "DequantizeLinear"):
                folded += _fold_scalar(model.graph, node)
            elif is_op(node, "Transpose"):
                folded += _fold_transpose(model.graph, node)
        if folded:
            logger.info("Computed %d quantized constants", folded)
        return ir.passes.PassResult(model, modified=bool(folded))


def along(numbers: NDArray[Any], codes: NDArray[Any], axis: int) -> NDArray[Any]:
    """Scales or zero points, of any shape that DequantizeLinear takes, ready to broadcast with codes."""
    if numbers.size == 1:
        return numbers.reshape(())
    shape = [1] * codes.ndim
    shape[axis] = -1
    return numbers.reshape(shape)


def block_size(node: ir.Node) -> int:
    """How many codes of a Q or DQ share a scale along its axis; 0: not block by block."""
    return int_attribute(node, "block_size", 0)


def _limits(codes: NDArray[Any]) -> tuple[int, int] | None:
    """The least and the largest code of an integer type, those of 4 and 2 bits too; None of a float type."""
    dtype = ir.DataType.from_numpy(codes.dtype)
    if not dtype.is_integer():
        return None
    levels = 1 << dtype.bitwidth
    return (-levels // 2, levels // 2 - 1) if dtype.is_signed() else (0, levels - 1)


def _fold_quantize(graph: ir.Graph, node: ir.Node) -> bool:
    real, scale = array(node.inputs[0]), array(node.inputs[1])
    zero = array(node.inputs[2]) if len(node.inputs) > 2 else None
    limits = None if zero is None else _limits(zero)
    if real is None or scale is None or zero is None or limits is None or block_size(node):
        return False
    if node.outputs[0].is_graph_output():
        return False
    axis = int_attribute(node, "axis", 1)
    steps = np.rint(real / along(scale, real, axis)).astype(np.float64)
    codes = np.clip(steps + along(zero, real, axis).astype(np.float64), *limits)
    return _replace(graph, node, codes.astype(np.int32).astype(zero.dtype))


def _fold_clip(graph: ir.Graph, node: ir.Node) -> bool:
    codes = array(node.inputs[0])
    limits = None if codes is None else _limits(codes)
    if codes is None or limits is None or codes.ndim == 0 or node.outputs[0].is_graph_output():
        return False
    bounds = []
    for index, limit in enumerate(limits, 1):
        given = node.inputs[index] if len(node.inputs) > index else None
        bound = limit if given is None else scalar_of(given)
        if bound is None:
            return False
        bounds.append(int(bound))
    low, high = bounds
    for use in node.outputs[0].uses():
        use.node.meta[WIDTH] = (low, high)
    return _replace(graph, node, np.clip(codes.astype(np.int32), low, high).astype(codes.dtype))


def _fold_scalar(graph: ir.Graph, node: ir.Node) -> bool:
    codes, scale = array(node.inputs[0]), scalar_of(node.inputs[1])
    zero = scalar_of(node.inputs[2]) if len(node.inputs) > 2 else None
    if codes is None or codes.ndim or scale is None or zero is None or node.outputs[0].is_graph_output():
        return False
    if scale.dtype != np.float32 or _limits(codes) is None:
        return False
    return _replace(graph, node, arithmetic.dequantize(codes, scale, zero), "real")


def _fold_transpose(graph: ir.Graph, node: ir.Node) -> bool:
    dequantize = node.inputs[0].producer() if node.inputs[0] is not None else None
    if dequantize is None or not is_op(dequantize, "DequantizeLinear") or node.outputs[0].is_graph_output():
        return False
    codes, scale = array(dequantize.inputs[0]), array(dequantize.inputs[1])
    if codes is None or scale is None or block_size(dequantize):
        return False
    order = list(node.attributes.get_ints("perm", list(range(codes.ndim))[::-1]))
    axis = int_attribute(dequantize, "axis", 1) % codes.ndim if scale.size > 1 else 0
    moved = add_initializer(graph, f"{node.outputs[0].name}.codes", np.transpose(codes, order))
    new = ir.node(
        "DequantizeLinear",
        [moved, *dequantize.inputs[1:]],
        {"axis": order.index(axis) if scale.size > 1 else 0},
        name=node.name,
        metadata_props=dict(dequantize.metadata_props),
    )
    new.meta.update(dequantize.meta)
    old = node.outputs[0]
    result = new.outputs[0]
    result.name, result.type, result.shape = old.name, old.type, ir.Shape(np.transpose(codes, order).shape)
    ir.convenience.replace_nodes_and_values(graph, node, [node], [new], [old], [result])
    return True


def _replace(graph: ir.Graph, node: ir.Node, numbers: NDArray[Any], kind: str = "codes") -> bool:
    """Let the users of a node use these numbers."""
    old, source = node.outputs[0], node.inputs[0]
    assert source is not None  # the callers have looked
    old.replace_all_uses_with(add_initializer(graph, f"{source.name}.{kind}", numbers))
    graph.remove(node, safe=True)
    return True
