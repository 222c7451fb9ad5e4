"""Say why an operator of a QDQ file stays float, where the reason lies in how the file quantizes."""

from __future__ import annotations

__all__ = ["ExplainPass"]

import onnx_ir as ir

from ... import metadata
from ...constants import scalar_of
from ...placement import CLAMPS
from ...values import array, is_op
from ..build import REASON
from ..match import dequantized, dequantized_weight, weight_fault
from .constants import block_size

_WEIGHTED = ("Conv", "ConvTranspose", "Gemm", "MatMul")
_USED_BEFORE = "its result is used before it is quantized"


class ExplainPass(ir.passes.InPlacePass):
    """Note the reason on each operator next to a Q or DQ that lowering cannot read.

    Run behind the lowering passes: what is left is float, and the notes say why to the reader of the file.
    The graph stays as it is.

    Left alone: operators whose neighbours are all readable; their own pass said why.
    """

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        for node in model.graph:
            if is_op(node, "QuantizeLinear", "DequantizeLinear"):
                continue
            reason = _reason(node)
            if reason is not None:
                node.meta[REASON] = reason
        return ir.passes.PassResult(model, modified=False)


def _reason(node: ir.Node) -> str | None:
    weighted = is_op(node, *_WEIGHTED)
    if not weighted and REASON not in node.meta:
        return None  # no pass looked at it: it has no integer form, whatever is around it
    for index, value in enumerate(node.inputs):
        source = value.producer() if value is not None else None
        if source is not None and is_op(source, "Add") and metadata.OFFSET in source.metadata_props:
            return None  # an offset in front of zeros: LowerBorderPass said why
        constant = array(value) is not None or (source is not None and array(source.inputs[0]) is not None)
        if source is None or not is_op(source, "DequantizeLinear"):
            if weighted and index < 2 and not (constant and index == 0):
                return f"its {('input', 'weight')[index]} is not quantized"
        elif weighted and index == 1 and constant:
            if is_op(node, "ConvTranspose"):
                return "it has no integer form, and its weight is quantized: only a float one becomes a Conv"
            if dequantized_weight(value) is None:
                return f"its weight {_weight_fault(source)}"
        elif not constant and dequantized(value) is None:
            return f"its input has {_fault(source)}"
    return _result_fault(node) if node.meta.get(REASON) == _USED_BEFORE else None


def _result_fault(node: ir.Node) -> str | None:
    """What hinders the result of an operator from being codes; None if nothing does."""
    user: ir.Node | None = node
    while user is not None and not is_op(user, "QuantizeLinear"):
        value = user.outputs[0]
        users = [use.node for use in value.uses()]
        others = [other for other in users if not is_op(other, "QuantizeLinear", *CLAMPS)]
        if others:
            return f"its result goes to {others[0].op_type} before it is quantized"
        if len(users) > 1:
            return "its result is used in several ways"
        if value.is_graph_output():
            return "its result is an output of the model before it is quantized"
        user = users[0] if users else None
    fault = None if user is None else _fault(user)
    return None if fault is None else f"its result gets {fault}"


def _weight_fault(node: ir.Node) -> str:
    if block_size(node):
        return "is scaled block by block, allowed one scale per kernel"
    return weight_fault(node) or "is not quantized to 8 bits or less"


def _fault(node: ir.Node) -> str | None:
    """What is wrong with the codes of an activation; None if nothing is."""
    scale, zero = array(node.inputs[1]), array(node.inputs[2]) if len(node.inputs) > 2 else None
    if scale is None or (zero is None and len(node.inputs) > 2 and node.inputs[2] is not None):
        return "a computed scale or zero point, allowed constants"
    if zero is not None and zero.dtype.name not in ("uint8", "int8"):
        return f"{zero.dtype} codes, allowed uint8 and int8"
    if scale.dtype.name != "float32":
        return f"a {scale.dtype} scale, allowed float32"
    if scalar_of(node.inputs[1]) is None:
        return f"{scale.size} scales, allowed one"
    if zero is not None and zero.dtype.name == "int8":
        return "int8 codes that are used in another way than dequantized"
    return None
