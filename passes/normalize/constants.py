"""Compute what does not depend on an input."""

from __future__ import annotations

__all__ = ["FoldConstantsPass"]

import onnx_ir as ir
from onnxscript import optimizer

from ..values import array, is_op

_NO_LIMIT = 2**31
_SHAPE_OPS = ("CastLike", "ConstantOfShape", "Expand", "Range", "Shape", "Size")


class FoldConstantsPass(ir.passes.InPlacePass):
    """Compute every node whose inputs are all constant, with onnxscript's folder.

    The folder also removes Dropout in inference mode, casts and reshapes that change nothing, and takes
    the branch of an If whose condition is constant. It looks at no BatchNormalization, merges no equal
    tensors, and gives no existing initializer another name.

    Left alone: QuantizeLinear and DequantizeLinear, and the Transpose between a matrix and its MatMul
    or Gemm, since its result would be a weight under another name; CanonicalizeGemmPass takes it in.
    """

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        result = optimizer.fold_constants_ir(
            model,
            onnx_shape_inference=True,
            input_size_limit=_NO_LIMIT,
            output_size_limit=_NO_LIMIT,
            should_fold=_should_fold,
        )
        return ir.passes.PassResult(model, modified=result.modified)


def _should_fold(node: ir.Node) -> bool | None:
    if is_op(node, *_SHAPE_OPS):
        return True  # the folder's own rule would keep ConstantOfShape
    if is_op(node, "Transpose"):
        weight = array(node.inputs[0])
        users = node.outputs[0].consumers()
        if weight is not None and weight.ndim == 2 and any(is_op(u, "MatMul", "Gemm") for u in users):
            return False
    return None
