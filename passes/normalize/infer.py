"""Infer the shapes of all values."""

from __future__ import annotations

__all__ = ["LARGEST", "InferShapesPass", "range_length"]

import onnx_ir as ir
from onnx_ir.passes.common import ShapeInferencePass

from ..values import array, is_op
from .ceil_mode import whole_windows

LARGEST = 2**20
"""Elements of what is computed beforehand, where it is larger than what it is made of."""


class InferShapesPass(ir.passes.InPlacePass):
    """Run the shape inference of ONNX, with the values of sizes.

    Not strict: an operator of another domain does not cost the shapes of all others. It would compute
    every Range of constants, however long; if one is, the values of sizes are left out.

    For a pool with ``ceil_mode`` ONNX counts a window that would begin in the padding at the end, which no
    runtime computes (operator MaxPool, attribute ``ceil_mode``). Its shape, and all behind it, are inferred
    again as those of a pool that is padded until the last window is whole.
    """

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        nodes = list(ir.traversal.RecursiveGraphIterator(model.graph))
        short = all(range_length(node) <= LARGEST for node in nodes)
        infer = ShapeInferencePass(check_type=False, strict_mode=False, data_prop=short)
        modified = infer(model).modified
        written: dict[ir.Node, dict[str, ir.Attr]] = {}
        try:
            for node in nodes:  # in the order of computation: what a pool takes is right
                whole = whole_windows(node)
                if whole is None or _has_sizes(node, whole.sizes):
                    continue
                written[node] = dict(node.attributes)
                node.attributes["ceil_mode"] = ir.AttrInt64("ceil_mode", 0)
                node.attributes["pads"] = ir.AttrInt64s("pads", whole.pads)
                _forget(node)
                modified |= infer(model).modified
        finally:
            for node, attributes in written.items():
                node.attributes.clear()
                node.attributes.update(attributes)
        return ir.passes.PassResult(model, modified=modified)


def _has_sizes(node: ir.Node, sizes: list[int]) -> bool:
    shape = node.outputs[0].shape
    return shape is not None and list(shape[2:]) == sizes


def _forget(node: ir.Node) -> None:
    """Drop the shapes of what a node makes, and of all that is made of it, but for graph outputs."""
    seen, waiting = {node}, [node]
    while waiting:
        found = waiting.pop()
        for value in found.outputs:
            if not value.is_graph_output():
                value.shape = None
        for user in found.successors():
            if user not in seen:
                seen.add(user)
                waiting.append(user)


def range_length(node: ir.Node) -> float:
    """How many numbers a Range of constants gives; 0 for other nodes."""
    numbers = [array(value) for value in node.inputs] if is_op(node, "Range") else []
    if any(number is None or number.size != 1 for number in numbers) or not numbers:
        return 0.0
    start, limit, delta = (float(number.reshape(())) for number in numbers if number is not None)
    return (limit - start) / delta if delta else 0.0
