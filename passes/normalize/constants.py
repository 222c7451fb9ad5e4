"""Compute what does not depend on an input."""

from __future__ import annotations

__all__ = ["FoldConstantsPass"]

import math

import onnx_ir as ir
from onnxscript import optimizer

from ..values import array, int_attribute, is_op

_NO_LIMIT = 2**31
_LARGEST = 2**20
"""Elements of a result that is larger than what it is made of."""
_SHAPE_OPS = ("CastLike", "ConstantOfShape", "Expand", "Range", "Shape", "Size")
_COPIES = ("Expand", "Tile")


class FoldConstantsPass(ir.passes.InPlacePass):
    """Compute every node whose inputs are all constant, with onnxscript's folder.

    The folder also removes Dropout in inference mode, casts and reshapes that change nothing, and takes
    the branch of an If whose condition is constant. It looks at no BatchNormalization, merges no equal
    tensors, and gives no existing initializer another name.

    Before: ``If(k) <then_branch = {t = Relu(x)}, else_branch = {e = Abs(x)}>`` with ``k`` true
    After:  ``y = Relu(x)``

    Left alone: QuantizeLinear and DequantizeLinear; the Transpose between a matrix and its MatMul
    or Gemm, since its result would be a weight under another name (CanonicalizeGemmPass takes it in);
    Expand and Tile of float arrays, whose copies would no longer be trained as one; results of more than
    a million elements that are larger than what they are made of; and Loop and Scan.
    """

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        kept = [node for node in ir.traversal.RecursiveGraphIterator(model.graph) if _wraps(node)]
        for node in kept:
            node.op_type, like = "Cast", node.inputs[1]
            assert like is not None  # its type is known
            assert like.dtype is not None
            node.resize_inputs(1)
            node.attributes["to"] = ir.AttrInt64("to", like.dtype.value)
        result = optimizer.fold_constants_ir(
            model,
            onnx_shape_inference=True,
            input_size_limit=_NO_LIMIT,
            output_size_limit=_LARGEST,
            should_fold=_should_fold,
        )
        return ir.passes.PassResult(model, modified=result.modified or bool(kept))


def _wraps(node: ir.Node) -> bool:
    """Whether this is a CastLike with ``saturate=0``, which the folder would forget, to a known type."""
    return (
        is_op(node, "CastLike")
        and not int_attribute(node, "saturate", 1)
        and node.inputs[1] is not None
        and node.inputs[1].dtype is not None
    )


def _should_fold(node: ir.Node) -> bool | None:
    if is_op(node, *_COPIES, "ConstantOfShape") and _grows(node):
        return False
    if is_op(node, *_SHAPE_OPS):
        return True  # the folder's own rule would keep ConstantOfShape
    if is_op(node, "Transpose"):
        weight = array(node.inputs[0])
        users = node.outputs[0].consumers()
        if weight is not None and weight.ndim == 2 and any(is_op(u, "MatMul", "Gemm") for u in users):
            return False
    return None


def _grows(node: ir.Node) -> bool:
    """Whether the node makes copies of something learned, or a result too large to keep."""
    data, counts = (node.inputs[0], node.inputs[1]) if is_op(node, *_COPIES) else (None, node.inputs[0])
    numbers, sizes = array(data), array(counts)
    if sizes is None:
        return False
    before = 1 if numbers is None else numbers.size
    after = math.prod(int(size) for size in sizes.ravel()) * (before if is_op(node, "Tile") else 1)
    learned = numbers is not None and numbers.dtype.kind == "f" and before > 1
    return after > before and (learned or after > _LARGEST)
