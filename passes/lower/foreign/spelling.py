"""Spell QuantizeLinear and DequantizeLinear in one way."""

from __future__ import annotations

__all__ = ["SpellQdqPass"]

import numpy as np
import onnx_ir as ir

from ...constants import constant
from ...values import array
from ..build import CONTRIB

_PAIR = ("QuantizeLinear", "DequantizeLinear")


class SpellQdqPass(ir.passes.InPlacePass):
    """Use the standard operators, each with its zero point.

    Before: ``com.microsoft.QuantizeLinear (x, s, z)``, ``QuantizeLinear <output_dtype = 3> (x, s)``
    After:  ``QuantizeLinear (x, s, z)``

    The operators of ``com.microsoft`` are those of opset 21, there before it. A zero point that is left out
    is 0.

    Left alone: a zero point whose type is not known, and scales that are computed.
    """

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        changed = 0
        for node in model.graph:
            if node.op_type in _PAIR and node.domain in ("", CONTRIB):
                changed += _rename(node) + _add_zero_point(model.graph, node)
        return ir.passes.PassResult(model, modified=bool(changed))


def _rename(node: ir.Node) -> bool:
    old, node.domain = node.domain, ""
    node.version = None
    return old != ""


def _add_zero_point(graph: ir.Graph, node: ir.Node) -> bool:
    scale = array(node.inputs[1])
    if scale is None or (len(node.inputs) > 2 and node.inputs[2] is not None):
        return False
    if node.op_type == "DequantizeLinear":
        codes = node.inputs[0]
        dtype = codes.dtype if codes is not None else None
    else:
        named = node.attributes.get_int("output_dtype", 0)
        dtype = ir.DataType(named) if named else node.outputs[0].dtype or ir.DataType.UINT8
    if dtype is None or not dtype.is_integer():
        return False
    zero = np.zeros(scale.shape, dtype.numpy())
    name = f"zero_{dtype.name.lower()}" + "".join(f".{size}" for size in scale.shape)
    node.resize_inputs(3)
    node.replace_input_with(2, constant(graph, name, zero))
    node.attributes.pop("output_dtype", None)
    return True
