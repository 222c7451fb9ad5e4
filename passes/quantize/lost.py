"""Operands of sums that are so much coarser than the sum that its codes would be lost in float32."""

from __future__ import annotations

__all__ = ["lost_in_sums"]

import onnx_ir as ir

from ..place import entries
from ..placement import chain_end
from ..plan import Plan
from ..values import is_op

_COARSEST = 256
"""Steps of a sum that a step of its operand may have. QLinearAdd computes in float32, whose 24 bits then hold
8 of a code, 8 of the factor, and 8 behind the point."""


def lost_in_sums(model: ir.Model, plan: Plan) -> dict[str, str]:
    """Why operands of Add and Sub cannot be codes, by name.

    A mask of attention is -1e9 or the least float32 where it is not 0, and the scores that it is added to are
    about 10: steps of 4e6 cancel in the sum.

    Args:
        model: Normal form, BatchNormalization folded.
        plan: Complete.
    """
    found, reasons = entries(model, plan), dict[str, str]()
    for node in model.graph:
        total = found.get(str(chain_end(node).name)) if is_op(node, "Add", "Sub") else None
        if total is None or total.scale is None:
            continue
        for operand in node.inputs:
            entry = found.get(str(operand.name)) if operand is not None else None
            if entry is not None and entry.scale is not None and entry.scale > _COARSEST * total.scale:
                reasons[entry.name] = (
                    f"its steps are {entry.scale / total.scale:.2g} times as large as those of a sum it is in"
                )
    return reasons
