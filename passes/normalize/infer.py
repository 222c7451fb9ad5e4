"""Infer the shapes of all values."""

from __future__ import annotations

__all__ = ["LARGEST", "InferShapesPass", "range_length"]

import onnx_ir as ir
from onnx_ir.passes.common import ShapeInferencePass

from ..values import array, is_op

LARGEST = 2**20
"""Elements of what is computed beforehand, where it is larger than what it is made of."""


class InferShapesPass(ir.passes.InPlacePass):
    """Run the shape inference of ONNX, with the values of sizes.

    Not strict: an operator of another domain does not cost the shapes of all others. It would compute
    every Range of constants, however long; if one is, the values of sizes are left out.
    """

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        nodes = ir.traversal.RecursiveGraphIterator(model.graph)
        short = all(range_length(node) <= LARGEST for node in nodes)
        return ShapeInferencePass(check_type=False, strict_mode=False, data_prop=short)(model)


def range_length(node: ir.Node) -> float:
    """How many numbers a Range of constants gives; 0 for other nodes."""
    numbers = [array(value) for value in node.inputs] if is_op(node, "Range") else []
    if any(number is None or number.size != 1 for number in numbers) or not numbers:
        return 0.0
    start, limit, delta = (float(number.reshape(())) for number in numbers if number is not None)
    return (limit - start) / delta if delta else 0.0
