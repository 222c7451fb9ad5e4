"""The pieces that pictures are made of: SVG by hand, a few kilobytes, and no plotting library."""

from __future__ import annotations

__all__ = ["bounds", "document", "text", "ticks"]

import math
from collections.abc import Sequence

_STYLE = (
    "text{font:12px sans-serif}.title{font-weight:bold}.middle{text-anchor:middle}"
    ".end{text-anchor:end}.grid{stroke:#ddd}.line{fill:none;stroke-width:2}.bar{stroke-width:1.5}"
)


def document(body: Sequence[str], width: float, height: float, label: str) -> str:
    """A whole file; ``label`` says what is to be seen."""
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:g} {height:g}" role="img" '
        f'aria-label="{label}"><style>{_STYLE}</style>'
        f'<rect width="{width:g}" height="{height:g}" fill="#fff"/>{"".join(body)}</svg>\n'
    )


def text(x: float, y: float, words: str, css: str = "", *, color: str = "#333") -> str:
    return f'<text class="{css}" fill="{color}" x="{x:.1f}" y="{y:.1f}">{words}</text>'


def _step(span: float) -> float:
    """1, 2 or 5 times a power of ten, for three to six ticks."""
    power = 10.0 ** math.floor(math.log10(max(span, 1e-9) / 3))
    return next((power * m for m in (1, 2, 5) if span / (power * m) <= 5), power * 10)


def bounds(low: float, high: float) -> tuple[float, float]:
    """Whole steps around a range."""
    step = _step(high - low)
    return math.floor(low / step) * step, math.ceil(high / step) * step or step


def ticks(low: float, high: float) -> list[float]:
    step = _step(high - low)
    return [round(low + i * step, 10) for i in range(round((high - low) / step) + 1)]
