"""How many groups lose a bit in one iteration.

Source: Gonugondla and Shanbhag, IMPQ, Algorithm 1, which names three rules and gives no numbers.
"""

from __future__ import annotations

__all__ = ["Step", "select"]

import dataclasses
from collections.abc import Sequence

from .sensitivity import Ranked

_SHARES = (0.5, 0.5, 0.5, 0.25)
"""Share of the eligible groups that lose a bit in each iteration of a phase, and ..."""
_LATER_SHARE = 0.15
_ADDED = 3
"""Sensitivities that a bit less adds: steps double, and squares of them are four."""
_LEAST_SHARE = 0.05
"""Of the groups that the phase began with: shares of ever fewer would take as many iterations for the last
hundredth of a bit as for the first three bits, 25 and more with 800 kernels."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Step:
    """How far one iteration may go; one of these at most, none: a falling share of the groups.

    Attributes:
        groups: So many groups, the least sensitive ones.
        sensitivity: All groups with a sensitivity up to this.
        mismatch: The longest beginning of the ranking whose groups, each a bit less, add no more than this to
            the bound on the mismatch probability.
    """

    groups: int | None = None
    sensitivity: float | None = None
    mismatch: float | None = None

    def unreached(self, caution: float, ranking: Sequence[Ranked]) -> str:
        """Why no group may lose a bit."""
        least = min(entry.sensitivity for entry in ranking)
        if self.sensitivity is not None:
            most = caution * self.sensitivity
            return f"no group has a sensitivity of {most:g} or less; the least: {least:.3g}"
        assert self.mismatch is not None  # the other rules always leave a group
        return (
            f"any group would add more than {caution * self.mismatch:g} to the bound on the mismatch; "
            f"the least: {_ADDED * least:.3g}"
        )


def select(
    ranking: Sequence[Ranked], step: Step, *, iteration: int, caution: float, begun: int
) -> list[Ranked]:
    """The groups that may lose a bit.

    Args:
        ranking: All that have one to give, least sensitive first.
        step: The rule.
        iteration: Which one of its phase this is, from 0.
        caution: A factor of how far to go, 1 until something was rolled back.
        begun: Groups that had a bit to give when the phase began.
    """
    if step.sensitivity is not None:
        return [entry for entry in ranking if entry.sensitivity <= caution * step.sensitivity]
    if step.mismatch is not None:
        return _within(ranking, caution * step.mismatch)
    if step.groups is not None:
        number = caution * step.groups
    else:
        share = _SHARES[iteration] if iteration < len(_SHARES) else _LATER_SHARE
        number = caution * max(share * len(ranking), _LEAST_SHARE * begun)
    return list(ranking[: max(1, round(number))])


def _within(ranking: Sequence[Ranked], mismatch: float) -> list[Ranked]:
    """As many as add up to no more than this."""
    chosen, added = [], 0.0
    for entry in ranking:
        added += _ADDED * entry.sensitivity
        if added > mismatch:
            break
        chosen.append(entry)
    return chosen
