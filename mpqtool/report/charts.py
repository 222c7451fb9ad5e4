"""Pictures drawn by hand in SVG: a few kilobytes, where a plotting library would be megabytes."""

from __future__ import annotations

__all__ = ["Segment", "distribution", "history", "mean_bits", "segments"]

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

from markupsafe import Markup

from mpqtool.result import LayerBits

_METRIC_KEYS = ("held_out", "accuracy", "top1", "agreement", "metric")
_WIDTH, _LEFT, _RIGHT = 1000, 44, 130
_BITS_HEIGHT, _METRIC_HEIGHT, _TOP, _GAP, _BOTTOM = 180, 120, 22, 44, 30


@dataclasses.dataclass(frozen=True)
class Segment:
    """A part of a stacked bar: kernels of one width, ``share`` of the bar in percent."""

    bits: int
    kernels: int
    share: float


def segments(layer: LayerBits) -> list[Segment]:
    """Give the kernels of a layer by width, narrowest first."""
    kernels = {int(bits): count for bits, count in layer.weight_bits.items() if count > 0}
    total = sum(kernels.values())
    return [Segment(bits, count, 100 * count / total) for bits, count in sorted(kernels.items())]


def mean_bits(layer: LayerBits) -> float | None:
    """Give the mean width of a layer's kernels, which all have the same number of weights."""
    parts = segments(layer)
    total = sum(part.kernels for part in parts)
    return sum(part.bits * part.kernels for part in parts) / total if total else None


def distribution(layers: Sequence[LayerBits]) -> list[Segment]:
    """Give the weights of the whole network by width (``kernels`` counts weights here)."""
    counts: dict[int, float] = {}
    for layer in layers:
        for part in segments(layer):
            counts[part.bits] = counts.get(part.bits, 0) + (layer.weights or 0) * part.share / 100
    total = sum(counts.values())
    if not total:
        return []
    return [Segment(bits, round(count), 100 * count / total) for bits, count in sorted(counts.items())]


@dataclasses.dataclass(frozen=True)
class _Panel:
    """A plotting area: maps iteration and value to pixels."""

    count: int
    top: float
    height: float
    low: float
    high: float

    def x(self, index: int) -> float:
        inner = _WIDTH - _LEFT - _RIGHT
        return _LEFT + (inner / 2 if self.count == 1 else inner * index / (self.count - 1))

    def y(self, value: float) -> float:
        return self.top + self.height * (self.high - value) / (self.high - self.low)

    def frame(self, title: str) -> str:
        parts = [f'<text class="axis" x="{_LEFT}" y="{self.top - 8:.1f}">{Markup.escape(title)}</text>']
        for tick in _ticks(self.low, self.high):
            y = self.y(tick)
            parts.append(
                f'<line class="grid" x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>'
            )
            parts.append(f'<text class="tick end" x="{_LEFT - 8}" y="{y + 4:.1f}">{tick:g}</text>')
        return "".join(parts)

    def line(self, points: Sequence[tuple[int, float, bool]], name: str, css: str, digits: int) -> str:
        """Draw a series; an iteration that was rolled back is a hollow point beside the line."""
        kept = [(i, value) for i, value, accepted in points if accepted]
        path = " ".join(f"{self.x(i):.1f},{self.y(value):.1f}" for i, value in kept)
        parts = [f'<polyline class="line {css}" points="{path}"/>']
        for i, value, accepted in points:
            hollow = "" if accepted else " hollow"
            note = "" if accepted else ", rolled back"
            parts.append(
                f'<circle class="dot {css}{hollow}" cx="{self.x(i):.1f}" cy="{self.y(value):.1f}" r="3.5">'
                f"<title>iteration {i}: {Markup.escape(name)} {value:.{digits}f}{note}</title></circle>"
            )
        last, value = kept[-1] if kept else points[-1][:2]
        parts.append(
            f'<text class="label" x="{self.x(last) + 9:.1f}" y="{self.y(value) + 4:.1f}">'
            f"{Markup.escape(name)} {value:.{digits}f}</text>"
        )
        return "".join(parts)


def history(rows: Sequence[Mapping[str, Any]]) -> Markup | None:
    """Draw effective bits, and under it the held-out metric, over the iterations; None without rows."""
    weights, activations = _series(rows, "weights_eff"), _series(rows, "activations_eff")
    metric_key = next((key for key in _METRIC_KEYS if _series(rows, key)), None)
    if not weights and not activations:
        return None
    values = [value for _, value, _ in (*weights, *activations)]
    low, high = _bounds(min(values), max(values))
    bits = _Panel(len(rows), _TOP, _BITS_HEIGHT, low, high)
    drawn = [bits.frame("effective bits")]
    drawn += [bits.line(series, name, css, 2) for series, name, css in (
        (activations, "activations", "activations"), (weights, "weights", "weights")) if series]  # fmt: skip
    bottom = _TOP + _BITS_HEIGHT
    if metric_key is not None:
        points = _series(rows, metric_key)
        low, high = _bounds(min(p[1] for p in points), max(p[1] for p in points))
        metric = _Panel(len(rows), bottom + _GAP, _METRIC_HEIGHT, low, high)
        title = metric_key.replace("_", "-")
        drawn += [metric.frame(f"{title} metric" if metric_key == "held_out" else title)]
        drawn += [metric.line(points, title, "metric", 2)]
        bottom += _GAP + _METRIC_HEIGHT
    step = max(1, math.ceil(len(rows) / 16))
    drawn += [
        f'<text class="tick middle" x="{bits.x(i):.1f}" y="{bottom + 18:.1f}">{i}</text>'
        for i in range(0, len(rows), step)
    ]
    body = "".join(drawn)
    return Markup(  # every text in it is escaped above
        f'<svg viewBox="0 0 {_WIDTH} {bottom + _BOTTOM}" role="img" '
        f'aria-label="Effective bits and metric over the iterations">{body}</svg>'
    )


def _series(rows: Sequence[Mapping[str, Any]], key: str) -> list[tuple[int, float, bool]]:
    return [
        (i, float(row[key]), row.get("accepted") is not False)
        for i, row in enumerate(rows)
        if isinstance(row.get(key), (int, float)) and math.isfinite(row[key])
    ]


def _bounds(low: float, high: float) -> tuple[float, float]:
    """Widen a range to whole steps, so that the outermost ticks are its ends."""
    step = _step(high - low)
    low, high = math.floor(low / step) * step, math.ceil(high / step) * step
    return (low, high) if high > low else (low - step, high + step)


def _step(span: float) -> float:
    """Choose 1, 2 or 5 times a power of ten, for three to six ticks."""
    if span <= 0:
        return 1.0
    power = 10.0 ** math.floor(math.log10(span / 3))
    return next(power * m for m in (1, 2, 5, 10) if span / (power * m) <= 5)


def _ticks(low: float, high: float) -> list[float]:
    step = _step(high - low)
    return [round(low + i * step, 10) for i in range(round((high - low) / step) + 1)]
