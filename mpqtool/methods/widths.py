"""Relaxed bit-widths: real numbers that descend, the whole bits that are used, and when they are settled.

Source: Gernigon et al., AdaQAT, sections III-B and III-C.
"""

from __future__ import annotations

__all__ = ["OSCILLATIONS", "Width"]

import dataclasses
import math

OSCILLATIONS = 10
"""How often a width goes to and fro between two numbers of bits before it is settled at one of them."""
_HYSTERESIS = 0.05
"""How far beyond a whole number the relaxed width has to be, so that noise is not an oscillation."""
_MOST_AT_ONCE = 0.5
"""Bits that a relaxed width moves by on one measurement, at most: a single bad batch decides nothing."""
_STILL = 0.25
"""Bits that a width would go by in the whole patience; one that would go less is settled."""
_DECAY, _MEMORY = 0.9, 10
"""Of the moving average of the gradient; measurements that the mean of them is of, at most."""


@dataclasses.dataclass
class Width:
    """One relaxed width N, and the ``ceil(N)`` bits that are used for it. JSON, part of checkpoints.

    Attributes:
        value: N.
        least: Bits at which it is settled when it gets there.
        most: Bits that it never exceeds.
        rate: Bits per step and unit of the gradient, eta of the paper; may be set anew at each update.
        speed: Bits per step that it falls by where a bit less costs nothing; what sets the rate goes by it.
        bits: What is used.
        bracket: Mean of the last measurements of ``L(bits) - L(bits - 1)`` since ``bits`` changed, or N
            was whole; 0 before the first.
        measured: How many there were.
        gradient: The last one that N was asked to follow.
        slope: Moving average of the gradient, as far as N followed it; None before the first.
        oscillations: Changes of ``bits`` back to where they came from, without another between.
        pair: The two numbers of bits it last changed between; None: it has not changed.
        changed: The step at which ``bits`` changed last.
        reason: Why it is settled, ``oscillation``, ``bound``, ``stall`` or ``budget``; None: it is not.
    """

    value: float
    least: int
    most: int
    rate: float
    bits: int = 0
    bracket: float = 0.0
    measured: int = 0
    gradient: float = 0.0
    slope: float | None = None
    oscillations: int = 0
    pair: tuple[int, int] | None = None
    changed: int = 0
    reason: str | None = None
    speed: float = 0.0

    def __post_init__(self) -> None:
        self.bits = self.bits or math.ceil(self.value)
        self.pair = None if self.pair is None else (self.pair[0], self.pair[1])  # JSON has no tuples

    @property
    def is_settled(self) -> bool:
        return self.reason is not None

    @property
    def can_be_measured(self) -> bool:
        """Whether one bit less is a question: not at a whole number, where floor and ceiling are the same."""
        return not self.is_settled and self.value != self.bits and self.bits > self.least

    @property
    def is_to_be_measured(self) -> bool:
        """Whether nothing is known yet of one bit less."""
        return self.can_be_measured and not self.measured

    def observe(self, bracket: float) -> None:
        """Take in ``L(bits) - L(bits - 1)``, both measured on one batch; what is no number says nothing."""
        if not math.isfinite(bracket):
            return
        self.measured += 1
        self.bracket += (bracket - self.bracket) / min(self.measured, _MEMORY)

    def descend(self, gradient: float, *, steps: int, step: int) -> None:
        """Make ``N - rate * gradient`` of N, as in each of some steps, and use the bits that asks for.

        Source: AdaQAT, equation 4.

        Args:
            gradient: Of the task loss and the hardware term.
            steps: How many steps this stands for.
            step: The present step.
        """
        self.gradient = gradient
        move, before = max(-_MOST_AT_ONCE, min(_MOST_AT_ONCE, -self.rate * steps * gradient)), self.value
        self.value = max(float(self.least), min(float(self.most), before + move))
        followed = (before - self.value) / (self.rate * steps)  # at an end, a steep slope moves nothing
        former = followed if self.slope is None else self.slope
        self.slope = _DECAY * former + (1 - _DECAY) * followed
        if self.value == self.bits:  # floor and ceiling are the same: what was measured is not its slope
            self.bracket, self.measured = 0.0, 0
        if self.value <= self.least:
            self._use(self.least, step)
            self.settle("bound")
        elif self.value <= self.bits - 1 - _HYSTERESIS or self.value > self.bits + _HYSTERESIS:
            self._use(math.ceil(self.value), step)

    def settle(self, reason: str) -> None:
        """Stop here; where it went to and fro, at the larger of the two.

        Source: AdaQAT, figure 1.
        """
        if self.oscillations and self.pair is not None and reason != "bound":
            self.bits = max(self.pair)
        self.reason = reason

    def settle_if_done(self, *, step: int, patience: int) -> None:
        """Settle what oscillates, and what has come to rest.

        Args:
            step: The present step.
            patience: Steps without a change after which a width that hardly moves is settled.
        """
        if self.is_settled:
            return
        rests = self.slope is not None and abs(self.slope) * self.rate * patience < _STILL
        if self.oscillations >= OSCILLATIONS:
            self.settle("oscillation")
        elif rests and step - self.changed >= patience:
            self.settle("stall")

    def settle_by_budget(self, *, step: int, patience: int) -> None:
        """Settle what is not done when its steps are over.

        What came down within the patience, and is not known to stay there, would have begun to go to and fro:
        it takes the larger number of bits, as what did.
        """
        came_down = self.pair is not None and self.bits == min(self.pair) and step - self.changed < patience
        if self.pair is not None and came_down and (not self.measured or self.gradient < 0):
            self.bits = max(self.pair)
        self.settle("budget")

    def would_fall(self, steps: int) -> bool:
        """Whether it would have lost a bit in so many steps more, as it was falling when it had to stop."""
        return self.reason == "budget" and (self.slope or 0.0) * self.rate * steps > 1

    def _use(self, bits: int, step: int) -> None:
        if bits == self.bits:
            return
        pair = (self.bits, bits)
        there_and_back = self.pair is not None and pair == self.pair[::-1] and abs(bits - self.bits) == 1
        self.oscillations = self.oscillations + 1 if there_and_back else 0
        self.pair, self.bits, self.changed = pair, bits, step
        self.bracket, self.measured = 0.0, 0
