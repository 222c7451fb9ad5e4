"""Scales of summands that a sum of codes can express exactly."""

from __future__ import annotations

__all__ = ["with_exact_sums"]

from collections.abc import Mapping

import numpy as np
import onnx_ir as ir

from .. import arithmetic
from ..functions import hard_swish_reach
from ..place import entries
from ..placement import chain_end
from ..plan import ActivationQuant, Plan
from ..values import is_activation, is_op

_SLIGHT = 2.0**-9
"""How far a scale may move, as a share of it: then no value moves by more than half a code of 8 bits."""


def with_exact_sums(model: ir.Model, plan: Plan) -> Plan:
    """The plan with the scales of summands moved to where their ratio to that of the sum is on the grid.

    QLinearAdd gets ratios rounded by ``arithmetic.add_ratios``, which can take a sum across a boundary of
    rounding that the QDQ file, with the scales as they are, does not cross. A scale near that of the sum
    moves by about a part in ``2**15``; then both files round the same number.

    Left alone are a scale that is in step with another sum already, one that HardSwish asks for, one so far
    below that of the sum that it would have to move by more than ``_SLIGHT``, and summands that a constant is
    multiplied with in between.

    Args:
        model: Normal graph with BatchNormalization folded; not changed.
        plan: Complete.
    """
    at = entries(model, plan)
    planned = {entry.name: entry for entry in plan.activations}
    scales = {name: entry.scale for name, entry in planned.items() if entry.scale is not None}
    in_step: set[str] = set()
    for node in reversed(model.graph):  # so that the scale of a sum is settled before those of its summands
        if not is_op(node, "Add", "Sub") or not all(is_activation(value) for value in node.inputs):
            continue
        names = [_unscaled(at.get(str(value.name)), planned) for value in node.inputs if value is not None]
        result = _unscaled(at.get(str(chain_end(node).name)), planned)
        first, second = names
        if first is None or second is None or result is None:
            continue
        ratios = arithmetic.add_ratios(scales[first], scales[second], scales[result])
        ratios = arithmetic.add_ratios(*ratios, 1)  # rounded up, they can ask for the next coarser grid
        for name, ratio in zip((first, second), ratios, strict=True):
            scale = float(ratio * np.float32(scales[result]))
            slight = abs(scale / scales[name] - 1) <= _SLIGHT
            if slight and name not in in_step and not _is_asked_for(planned[name]):
                scales[name] = scale
                in_step.add(name)
    moved = (entry.model_copy(update={"scale": scales.get(entry.name)}) for entry in plan.activations)
    return plan.replaced(activations=moved)


def _unscaled(entry: ActivationQuant | None, planned: Mapping[str, ActivationQuant]) -> str | None:
    """The name of a value's entry, if the value has the very scale that the plan says; or None."""
    if entry is None or entry.scale is None or entry.scale != planned[entry.name].scale:
        return None
    return entry.name


def _is_asked_for(entry: ActivationQuant) -> bool:
    """Whether real 3 is a whole number of codes, which is by intention."""
    assert entry.scale is not None  # or it would be in no sum
    return hard_swish_reach(entry.scale, entry.zero_point or 0) is not None
