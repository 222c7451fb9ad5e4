"""Shifts of weight codes, so that biases lose little to rounding."""

from __future__ import annotations

__all__ = ["with_fine_biases", "with_room_for_shifts"]

import numpy as np
import onnx_ir as ir

from .. import arithmetic
from ..place import entries
from ..plan import Plan, WeightQuant
from ..values import array
from .complete import WeightUser, weight_users

_MOST = 4
"""A bias in steps of a sixteenth of the product of the scales is as good as a real one."""


def with_fine_biases(model: ir.Model, plan: Plan) -> Plan:
    """The plan with the codes of narrow weights shifted to the left as far as that costs nothing.

    A bias is rounded to whole products of the scales of input and weight. At 2 bits that is a large part of
    what a small kernel adds up to: a depthwise network of 2-bit weights and values lost 15 points by it.

    A weight is shifted by ``_MOST`` bits, or as far as its codes are int8, no pair of products saturates on
    CPUs without VNNI that did not before, and sums stay exact in float32. 8-bit weights are not.

    Args:
        model: Normal graph with BatchNormalization folded; not changed.
        plan: Complete.
    """
    found = entries(model, plan)
    weights = []
    for planned in plan.weights:
        weight = model.graph.initializers[planned.name]
        numbers, users = array(weight), list(weight_users(plan, found, weight))
        assert numbers is not None  # place() only names initializers
        weights.append(planned.model_copy(update={"shift": _room(planned, numbers, users)}))
    return plan.replaced(weights=weights)


def with_room_for_shifts(plan: Plan) -> Plan:
    """The plan with shifts lowered to where codes fit int8, as after an edit of widths."""

    def entry(planned: WeightQuant) -> WeightQuant:
        shift = next(s for s in range(planned.shift, -1, -1) if _is_int8(planned, s))
        return planned.model_copy(update={"shift": shift})

    return plan.replaced(weights=map(entry, plan.weights))


def _is_int8(planned: WeightQuant, shift: int) -> bool:
    low, high = arithmetic.code_range(max(planned.bits), planned.grid)
    return low << shift >= -128 and high << shift <= 127


def _room(planned: WeightQuant, numbers: np.ndarray, users: list[WeightUser]) -> int:
    """How far the codes of a weight can be shifted."""
    shifts = [shift for shift in range(_MOST, 0, -1) if _is_int8(planned, shift)]
    if not shifts:
        return 0
    assert planned.scale is not None  # the plan is complete
    codes, unit = arithmetic.quantize_shifted(numbers, planned.scale, planned.bits, planned.grid, 0)
    low, high = arithmetic.code_range(max(planned.bits), planned.grid)
    largest = max(-low, high)
    fitting = (s for s in shifts if _fits(codes << s, unit / np.float32(2**s), largest << s, users))
    return next(fitting, 0)


def _fits(codes: np.ndarray, unit: np.ndarray, largest: int, users: list[WeightUser]) -> bool:
    """Whether all that is computed with these codes stays exact; ``largest`` is what a code can be."""
    for user in users:
        pair = 2 * (user.high - user.low) * largest
        reach, bias = max(-user.low, user.high), user.bias_codes(unit, codes)
        bound = arithmetic.accumulator_bound(np.abs(codes), np.abs(bias), 0, reach)
        if pair > arithmetic.MAX_SAFE_PAIR or bound >= arithmetic.EXACT_BELOW:
            return False
    return True
