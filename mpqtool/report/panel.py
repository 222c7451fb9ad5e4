"""The frame of a picture: a plotting area with its ticks, and the names of what is drawn in it."""

from __future__ import annotations

__all__ = ["LEFT", "RIGHT", "WIDTH", "Label", "Panel", "bounds", "names", "ticks"]

import dataclasses
import math
from collections.abc import Iterable, Sequence

from markupsafe import Markup

WIDTH, LEFT, RIGHT = 1000, 60, 130
"""Pixels of a picture, and of its margins."""
_LABEL_HEIGHT = 15
_LEAST_SPAN = 5e-3
"""Of a panel, as a part of its largest value: steps between ticks are a thousandth of it then, or more."""

Label = tuple[float, str]
"""The height in pixels of what is named, and its name."""


@dataclasses.dataclass(frozen=True)
class Panel:
    """A plotting area: maps positions from ``first`` to ``last``, and values, to pixels."""

    first: float
    last: float
    top: float
    height: float
    low: float
    high: float

    @property
    def bottom(self) -> float:
        return self.top + self.height

    def x(self, position: float) -> float:
        inner = WIDTH - LEFT - RIGHT
        if self.last == self.first:
            return LEFT + inner / 2
        return LEFT + inner * (position - self.first) / (self.last - self.first)

    def y(self, value: float) -> float:
        return self.top + self.height * (self.high - value) / (self.high - self.low)

    def frame(self, title: str) -> str:
        """Draw the title, and a line with a number at each round value."""
        parts = [f'<text class="axis" x="{LEFT}" y="{self.top - 8:.1f}">{Markup.escape(title)}</text>']
        for tick in ticks(self.low, self.high):
            y = self.y(tick) + 4
            parts.append(self.rule(tick, "grid"))
            parts.append(f'<text class="tick end" x="{LEFT - 8}" y="{y:.1f}">{_short(tick)}</text>')
        return "".join(parts)

    def rule(self, value: float, css: str) -> str:
        """Draw a line across the panel."""
        y = self.y(value)
        return f'<line class="{css}" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>'

    def axis(self, positions: Iterable[float], word: str) -> str:
        """Number these positions below the panel; ``word`` is what a position is called."""
        y = self.bottom + 18
        numbers = [
            f'<text class="tick middle" x="{self.x(at):.1f}" y="{y:.1f}">{at:,.0f}</text>' for at in positions
        ]
        return "".join(numbers) + f'<text x="{WIDTH - RIGHT + 28}" y="{y:.1f}">{word}</text>'


def names(labels: Sequence[Label], lowest: float = math.inf) -> str:
    """Write names at the right margin; those that would overlap are pushed apart.

    Args:
        labels: The names.
        lowest: None is written below this; others make room above.
    """
    labels, places, free = sorted(labels, key=lambda label: label[0]), [], -math.inf
    for y, _ in labels:
        places.append(max(y + 4, free))
        free = places[-1] + _LABEL_HEIGHT
    for i in reversed(range(len(places))):
        places[i] = min(places[i], lowest)
        lowest = places[i] - _LABEL_HEIGHT
    return "".join(
        f'<text class="label" x="{WIDTH - RIGHT + 12}" y="{place:.1f}">{text}</text>'
        for (_, text), place in zip(labels, places, strict=True)
    )


def bounds(values: Sequence[float]) -> tuple[float, float]:
    """Give the range of values, widened to whole steps, so that the outermost ticks are its ends.

    A constant is the upper end: no bit-width is above 8, and no accuracy above 100.
    """
    step = _step(min(values), max(values))
    low, high = math.floor(min(values) / step) * step, math.ceil(max(values) / step) * step
    return (low, high) if high > low else (low - step, high)


def _step(low: float, high: float) -> float:
    """Choose 1, 2 or 5 times a power of ten, for three to six ticks; fewer where values hardly differ."""
    span = max(high - low, _LEAST_SPAN * max(abs(low), abs(high)))
    if span <= 0 or (low == high and span < 1):
        return 1.0
    power = 10.0 ** math.floor(math.log10(span / 3))
    return next(power * m for m in (1, 2, 5, 10) if span / (power * m) <= 5)


def ticks(low: float, high: float) -> list[float]:
    """Give the round values of a range that begins and ends with one."""
    step = _step(low, high)
    digits = 3 - math.floor(math.log10(step))
    return [round(low + i * step, digits) for i in range(round((high - low) / step) + 1)]


def _short(value: float) -> str:
    """Write a tick in no more than the margin has room for: four digits, if need be with a power of ten."""
    if value and not 1e-3 <= abs(value) < 1e5:
        digits, power = f"{value:.3e}".split("e")
        return f"{float(digits):g}e{int(power)}"
    return f"{value:.5g}"
