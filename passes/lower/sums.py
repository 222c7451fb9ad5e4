"""Sums of products in float32 that are exact, as they cannot leave the integers that it holds."""

from __future__ import annotations

__all__ = ["Multiply", "Sum", "accumulate", "clip_bounds", "code_bounds", "parts"]

import dataclasses
from collections.abc import Callable

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from ..arithmetic import EXACT_BELOW
from ..constants import scalar_of
from ..placement import MOVES
from ..values import is_op
from .carriers import Carrier

Int = NDArray[np.int64]
Multiply = Callable[[ir.Value, ir.Value, ir.Value | None], ir.Value]
"""Writes the operator that multiplies two operands and adds a bias."""

_FLOAT, _DOUBLE = ir.DataType.FLOAT, ir.DataType.DOUBLE


@dataclasses.dataclass(frozen=True)
class Sum:
    """Products of two operands, summed over channels.

    Attributes:
        left: Centered codes.
        right: Centered codes, or codes of weights.
        bounds: The most that the products of one channel can add up to, ``(kernels, channels)``.
        left_axis: Of the channels; those of all groups one after the other.
        right_axis: Of the channels of one group.
        bias: ``(kernels,)``, or None.
        rank: Of the result, whose kernels are along axis 1.
        group: Number of groups.
    """

    left: ir.Value
    right: ir.Value
    bounds: Int
    left_axis: int
    right_axis: int
    rank: int
    bias: Int | None = None
    group: int = 1


def accumulate(steps: Carrier, terms: Sum, multiply: Multiply) -> ir.Value | None:
    """``float32`` of the integer sum; None where one channel alone can leave what float32 holds.

    The channels are split into parts whose sums stay below 2**24, so that each is exact. The sum of two
    of them is rounded once, as float32 of the integer is. More are added in float64, which is exact,
    and so is a bias that is too large itself.

    The Round behind each product changes no integer. It keeps ONNX Runtime from folding what follows into
    the weights, or from starting one sum with the other.
    """
    bias = np.zeros(len(terms.bounds), np.int64) if terms.bias is None else terms.bias
    chosen, apart = parts(terms.bounds, np.abs(bias)), False
    if chosen is None:
        chosen, apart = parts(terms.bounds, np.zeros_like(bias)), True
    if chosen is None:
        return None
    sums = []
    for index, part in enumerate(chosen):
        left, right = terms.left, terms.right
        if len(chosen) > 1:
            left, right = _channels(steps, terms, part), _sliced(steps, right, part, terms.right_axis)
        held = None
        if index == 0 and not apart and terms.bias is not None:
            held = steps.own("bias", terms.bias.astype(np.float32))
        sums.append(steps("Round", multiply(left, right, held)))
    if len(sums) == 1 and not apart:
        return sums[0]
    if len(sums) == 2 and not apart:
        return steps("Add", *sums)
    total, *rest = (steps.cast(value, _DOUBLE) for value in sums)
    if apart:
        column = bias.astype(np.float64).reshape(-1, *[1] * (terms.rank - 2))
        rest.append(steps.own("bias", column))
    for value in rest:
        total = steps("Add", total, value, dtype=_DOUBLE)
    return steps.cast(total, _FLOAT)


def parts(bounds: Int, extra: Int) -> list[range] | None:
    """Channels in as few runs as their bounds allow; None where one alone is too much.

    Args:
        bounds: ``(kernels, channels)``.
        extra: What the first run has to hold beside, ``(kernels,)``.
    """
    runs, start, held = [], 0, extra
    for channel in range(bounds.shape[1]):
        more = held + bounds[:, channel]
        if more.max(initial=0) >= EXACT_BELOW:
            more = bounds[:, channel]
            if channel == start or more.max(initial=0) >= EXACT_BELOW:
                return None
            runs.append(range(start, channel))
            start = channel
        held = more
    return [*runs, range(start, bounds.shape[1])]


def code_bounds(value: ir.Value | None) -> tuple[int, int]:
    """Smallest and largest code that a value can hold: those of the Clip that makes it, or all of uint8."""
    node = value.producer() if value is not None else None
    if node is None:
        return 0, 255
    if is_op(node, "Clip"):
        return clip_bounds(node) or (0, 255)
    if is_op(node, "MaxPool", *MOVES) and not is_op(node, "Pad"):
        return code_bounds(node.inputs[0])
    if is_op(node, "Concat"):
        found = [code_bounds(part) for part in node.inputs]
        return min(low for low, _ in found), max(high for _, high in found)
    return 0, 255


def clip_bounds(node: ir.Node) -> tuple[int, int] | None:
    """The bounds of a Clip of codes; None where they are computed or left out."""
    bounds = [scalar_of(bound) for bound in node.inputs[1:3]]
    if len(bounds) < 2 or bounds[0] is None or bounds[1] is None:
        return None
    return int(bounds[0]), int(bounds[1])


def _channels(steps: Carrier, terms: Sum, part: range) -> ir.Value:
    """These channels of each group of the left operand."""
    if terms.group == 1:
        return _sliced(steps, terms.left, part, terms.left_axis)
    size = terms.bounds.shape[1]
    chosen = [group * size + channel for group in range(terms.group) for channel in part]
    index = steps.own(f"channels{part.start}", np.array(chosen, np.int64))
    return _open(steps("Gather", terms.left, index, axis=terms.left_axis))


def _sliced(steps: Carrier, value: ir.Value, part: range, axis: int) -> ir.Value:
    start, stop = steps.integers([part.start]), steps.integers([part.stop])
    return _open(steps("Slice", value, start, stop, steps.integers([axis])))


def _open(value: ir.Value) -> ir.Value:
    value.shape = None  # it is not that of the result
    return value
