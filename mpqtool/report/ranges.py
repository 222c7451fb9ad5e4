"""Which real numbers the codes of activations cover."""

from __future__ import annotations

__all__ = ["Range", "ranges"]

import dataclasses
from collections.abc import Sequence

from mpqtool.passes.plan import ActivationQuant


@dataclasses.dataclass(frozen=True)
class Range:
    """The values of an activation's codes, and where they are drawn, in percent of the width of the chart.

    Attributes:
        entry: The activation.
        low: What code 0 stands for; beta of LSQ+, equation 2 (Bhalgat et al., 2020) with codes from 0.
        high: What the largest code stands for.
        left: Where ``low`` is drawn.
        right: Where ``high`` is drawn.
        zero: Where real 0 is drawn: at the same place for all activations.
    """

    entry: ActivationQuant
    low: float
    high: float
    left: float
    right: float
    zero: float


def ranges(entries: Sequence[ActivationQuant]) -> list[Range]:
    """Give the ranges of all activations whose numbers are known.

    Each has a scale of its own, or a beta of -0.3 would not be seen beside a range of 100: the end that is
    farther from 0 is equally far for all.
    """
    ends = [(entry, *found) for entry in entries if (found := _ends(entry)) is not None]
    far = [max(abs(low), abs(high)) for _, low, high in ends]
    relative = [(low / most, high / most) for (_, low, high), most in zip(ends, far, strict=True)]
    start = min([0.0, *(low for low, _ in relative)])
    stop = max([0.0, *(high for _, high in relative)])

    def place(value: float) -> float:
        return 100 * (value - start) / (stop - start)

    return [
        Range(*end, left=place(low), right=place(high), zero=place(0.0))
        for end, (low, high) in zip(ends, relative, strict=True)
    ]


def _ends(entry: ActivationQuant) -> tuple[float, float] | None:
    """What the first and the last code stand for; None where that is still open."""
    if entry.scale is None or entry.zero_point is None:
        return None
    low = entry.offset - entry.scale * entry.zero_point
    return low, low + entry.scale * (2**entry.bits - 1)
