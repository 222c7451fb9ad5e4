"""A picture of the runs, drawn by hand in SVG: a few kilobytes, and no plotting library."""

from __future__ import annotations

__all__ = ["picture"]

import dataclasses
import math
from collections.abc import Sequence
from statistics import fmean

from common.page import spread
from common.svg import document, text

from mpqtool.report.panel import bounds, ticks

from .arms import Runs
from .tables import INITS, STARTED, STARTS, SWISH

_COLORS = {1: "#0072b2", 2: "#d55e00", 3: "#cc79a7", 4: "#009e73"}  # Okabe and Ito: told apart by everyone
_WIDTH, _HEIGHT, _TOP, _BOTTOM = 960, 340, 46, 300


@dataclasses.dataclass(frozen=True)
class _Panel:
    """A plotting area with named places along x."""

    title: str
    left: float
    right: float
    names: Sequence[str]
    low: float
    high: float

    def x(self, place: float) -> float:
        return self.left + (self.right - self.left) * (place + 0.5) / len(self.names)

    def y(self, value: float) -> float:
        return _TOP + (_BOTTOM - _TOP) * (self.high - value) / (self.high - self.low)

    def frame(self) -> list[str]:
        parts = [text(self.left, _TOP - 22, self.title, "title")]
        for tick in ticks(self.low, self.high):
            y = self.y(tick)
            parts.append(f'<path class="grid" d="M{self.left} {y:.1f}H{self.right}"/>')
            parts.append(text(self.left - 6, y + 4, f"{tick:g}", "end"))
        return parts + [text(self.x(i), _BOTTOM + 18, n, "middle") for i, n in enumerate(self.names)]

    def error_bar(self, place: float, middle: float, half: float, color: str) -> str:
        x, top, bottom = self.x(place), self.y(middle + half), self.y(middle - half)
        return (
            f'<path class="bar" stroke="{color}" d="M{x:.1f} {top:.1f}V{bottom:.1f}M{x - 4:.1f} {top:.1f}h8'
            f'M{x - 4:.1f} {bottom:.1f}h8"/>'
        )

    def dot(self, place: float, value: float, color: str, radius: float = 4) -> str:
        return f'<circle cx="{self.x(place):.1f}" cy="{self.y(value):.1f}" r="{radius}" fill="{color}"/>'


def picture(runs: Runs, float_accuracy: float) -> str:
    """Accuracy by width and configuration; errors at the start and accuracy at the end by initialization."""
    body = [*_by_bits(runs, float_accuracy), *_errors(runs), *_by_init(runs)]
    label = "Accuracy of LSQ+ by configuration, width and initialization"
    return document(body, _WIDTH, _HEIGHT, label)


def _by_bits(runs: Runs, float_accuracy: float) -> list[str]:
    widths = (4, 3, 2)
    found = runs.values(SWISH.values())
    cells = {place: found[arm] for place, arm in SWISH.items()}
    lowest = min((fmean(v) - spread(v) for v in cells.values() if v), default=0)
    low, high = bounds([lowest, float_accuracy])
    panel = _Panel("Swish, accuracy in %", 44, 380, [f"W{b}A{b}" for b in widths], low, high)
    y = panel.y(float_accuracy)
    parts = [
        *panel.frame(),
        f'<path stroke="#333" stroke-dasharray="4 3" d="M{panel.left} {y:.1f}H{panel.right}"/>',
    ]
    parts.append(text(panel.left + 4, y - 5, "float"))
    labels = []
    for number, (config, color) in enumerate(_COLORS.items()):
        aside = 0.05 * (number - 1.5)  # so that error bars do not hide each other
        points = [(i + aside, cells[config, b]) for i, b in enumerate(widths) if cells[config, b]]
        if not points:
            continue
        path = " ".join(f"{panel.x(i):.1f},{panel.y(fmean(v)):.1f}" for i, v in points)
        parts.append(f'<polyline class="line" stroke="{color}" points="{path}"/>')
        for place, values in points:
            parts += [
                panel.error_bar(place, fmean(values), spread(values), color),
                panel.dot(place, fmean(values), color),
            ]
        labels.append((panel.y(fmean(points[-1][1])), f"config {config}", color))
    below = -math.inf
    for y, label, color in sorted(labels):
        below = max(y + 4, below + 14)
        parts.append(text(panel.x(len(widths) - 1) + 18, below, label, color=color))
    return parts


def _errors(runs: Runs) -> list[str]:
    keys = ("weight_error", "activation_error")
    cells = {(i, k): runs.values(STARTED.values(), k)[STARTED[i]] for i in INITS for k in keys}
    low, high = bounds([0, *(fmean(v) for v in cells.values() if v)])
    panel = _Panel("W2A2, squared error at the start", 440, 680, list(INITS.values()), low, high)
    parts = panel.frame()
    for (init, key), values in cells.items():
        if values:
            side, color = (-0.2, "#999999") if key == keys[0] else (0.2, "#e69f00")
            x, y = panel.x(list(INITS).index(init) + side), panel.y(fmean(values))
            parts.append(
                f'<rect x="{x - 14:.1f}" y="{y:.1f}" width="28" height="{_BOTTOM - y:.1f}" fill="{color}"/>'
            )
    for place, (key, color) in enumerate(zip(keys, ("#999999", "#e69f00"), strict=True)):
        parts.append(f'<rect x="560" y="{_TOP + 4 + 18 * place}" width="10" height="10" fill="{color}"/>')
        parts.append(text(575, _TOP + 13 + 18 * place, STARTS[key].removeprefix("error of ")))
    return parts


def _by_init(runs: Runs) -> list[str]:
    cells = runs.values(STARTED.values())
    low, high = bounds([value for values in cells.values() for value in values] or [0, 1])
    panel = _Panel("W2A2, accuracy in % by seed", 730, 950, list(INITS.values()), low, high)
    parts = panel.frame()
    for place, values in enumerate(cells.values()):
        if values:
            parts += [panel.dot(place, value, "#56b4e9") for value in values]
            x, y = panel.x(place), panel.y(fmean(values))
            parts.append(f'<path class="line" stroke="#333" d="M{x - 16:.1f} {y:.1f}h32"/>')
            parts.append(text(x, _BOTTOM + 33, f"± {spread(values):.2f}", "middle"))
    return parts
