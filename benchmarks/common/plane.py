"""A plotting area with axes, for points of accuracy over cost."""

from __future__ import annotations

__all__ = ["BOTTOM", "COLORS", "HEIGHT", "LEFT", "RIGHT", "TOP", "WIDTH", "Plane"]

import dataclasses

from mpqtool.report.panel import ticks

from .svg import text

COLORS = {"network": "#0072b2", "layer": "#d55e00", "kernel": "#009e73"}  # Okabe and Ito
WIDTH, HEIGHT = 760, 420
LEFT, RIGHT, TOP, BOTTOM = 56, 730, 46, 360


@dataclasses.dataclass(frozen=True)
class Plane:
    """A plotting area; ranges along both axes."""

    across: tuple[float, float]
    up: tuple[float, float]

    def x(self, value: float) -> float:
        low, high = self.across
        return LEFT + (RIGHT - LEFT) * (value - low) / (high - low)

    def y(self, value: float) -> float:
        low, high = self.up
        return TOP + (BOTTOM - TOP) * (high - value) / (high - low)

    def frame(self, title: str, below: str) -> list[str]:
        parts = [text(LEFT, TOP - 22, title, "title"), text(RIGHT, BOTTOM + 40, below, "end")]
        for tick in ticks(*self.up):
            parts.append(f'<path class="grid" d="M{LEFT} {self.y(tick):.1f}H{RIGHT}"/>')
            parts.append(text(LEFT - 6, self.y(tick) + 4, f"{tick:g}", "end"))
        return parts + [
            text(self.x(tick), BOTTOM + 18, f"{tick:g}", "middle") for tick in ticks(*self.across)
        ]

    def dot(self, x: float, y: float, color: str) -> str:
        return f'<circle cx="{self.x(x):.1f}" cy="{self.y(y):.1f}" r="4" fill="{color}"/>'
