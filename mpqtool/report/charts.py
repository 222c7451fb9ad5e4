"""Pictures drawn by hand in SVG: a few kilobytes, where a plotting library would be megabytes."""

from __future__ import annotations

__all__ = ["Segment", "distribution", "history", "kept_epoch", "mean_bits", "segments"]

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

from markupsafe import Markup

from mpqtool.result import LayerBits

_WIDTH, _LEFT, _RIGHT = 1000, 44, 130
_HEIGHT, _LOWER_HEIGHT, _TOP, _GAP, _BOTTOM = 180, 120, 22, 44, 30
_LABEL_HEIGHT, _MOST_NUMBERS = 15, 16

_Points = Sequence[tuple[int, float, bool]]
"""Position, value, and whether the run went on from there."""


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
class _Line:
    """A series; ``css`` is its class in the style sheet."""

    points: _Points
    name: str
    css: str


@dataclasses.dataclass(frozen=True)
class _Panel:
    """A plotting area: maps position and value to pixels; ``word`` is what a position is called."""

    word: str
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

    def draw(self, title: str, lines: Sequence[_Line], level: float | None = None) -> str:
        """Draw the frame, the lines and their names; ``level`` is the float network's value, if known."""
        labels = [self._label(line) for line in lines]
        if level is not None:
            labels.append((_WIDTH - _RIGHT, self.y(level), f"float {level:.2f}"))
        return "".join(
            [self._frame(title), "" if level is None else self._rule(level, "line float")]
            + [self._line(line) for line in lines]
            + [_names(labels)]
        )

    def ring(self, index: int, value: float) -> str:
        """Mark the point that was kept."""
        return f'<circle class="ring" cx="{self.x(index):.1f}" cy="{self.y(value):.1f}" r="7.5"/>'

    def axis(self) -> str:
        """Number the positions, below the panel."""
        y = self.top + self.height + 18
        step = math.ceil(self.count / _MOST_NUMBERS)
        numbers = [
            f'<text class="tick middle" x="{self.x(i):.1f}" y="{y:.1f}">{i}</text>'
            for i in range(0, self.count, step)
        ]
        return "".join(numbers) + f'<text x="{_WIDTH - _RIGHT + 16}" y="{y:.1f}">{self.word}</text>'

    def _frame(self, title: str) -> str:
        parts = [f'<text class="axis" x="{_LEFT}" y="{self.top - 8:.1f}">{Markup.escape(title)}</text>']
        for tick in _ticks(self.low, self.high):
            y = self.y(tick) + 4
            parts.append(self._rule(tick, "grid"))
            parts.append(f'<text class="tick end" x="{_LEFT - 8}" y="{y:.1f}">{tick:g}</text>')
        return "".join(parts)

    def _rule(self, value: float, css: str) -> str:
        y = self.y(value)
        return f'<line class="{css}" x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>'

    def _line(self, line: _Line) -> str:
        """Draw a series; what was rolled back is a hollow point beside the line."""
        path = " ".join(f"{self.x(i):.1f},{self.y(value):.1f}" for i, value, kept in line.points if kept)
        parts = [f'<polyline class="line {line.css}" points="{path}"/>']
        for i, value, kept in line.points:
            hollow, note = ("", "") if kept else (" hollow", ", rolled back")
            x, y = self.x(i), self.y(value)
            parts.append(
                f'<circle class="dot {line.css}{hollow}" cx="{x:.1f}" cy="{y:.1f}" r="3.5">'
                f"<title>{self.word} {i}: {line.name} {value:.2f}{note}</title></circle>"
            )
        return "".join(parts)

    def _label(self, line: _Line) -> tuple[float, float, str]:
        """Where the name of a series goes, with the value that the run ended with."""
        kept = [point for point in line.points if point[2]] or line.points
        last, value, _ = kept[-1]
        return self.x(last), self.y(value), f"{line.name} {value:.2f}"


def _names(labels: Sequence[tuple[float, float, str]]) -> str:
    """Write names behind the ends of their lines; those that would overlap are pushed apart."""
    parts, free = [], -math.inf
    for x, y, text in sorted(labels, key=lambda label: label[1]):
        place = max(y + 4, free)
        free = place + _LABEL_HEIGHT
        parts.append(f'<text class="label" x="{x + 12:.1f}" y="{place:.1f}">{text}</text>')
    return "".join(parts)


def history(rows: Sequence[Mapping[str, Any]], metric: str) -> Markup | None:
    """Draw how a run went; None if there is nothing to see.

    Iterations change widths: effective bits, and under them the held-out metric. Epochs do not: the held-out
    metric alone, with a ring around the epoch that was kept.

    Args:
        rows: The history of a result. ``float_held_out`` of the first is the float network's metric, if it is
            there.
        metric: What the held-out metric is called, with its unit.
    """
    kept = kept_epoch(rows)
    held_out = _series(rows, "held_out")
    bits = [] if kept is not None else [
        _Line(points, name, name)
        for name in ("activations", "weights")
        if (points := _series(rows, f"{name}_eff"))
    ]  # fmt: skip
    if len(held_out) < 2 and not bits:
        return None
    word, drawn, bottom = "iteration" if kept is None else "epoch", "", 0
    if bits:
        low, high = _bounds([value for line in bits for _, value, _ in line.points])
        panel = _Panel(word, len(rows), _TOP, _HEIGHT, low, high)
        drawn, bottom = panel.draw("effective bits", bits), _TOP + _HEIGHT
    if held_out:
        reference = _series(rows[:1], "float_held_out")
        level = reference[0][1] if reference else None
        low, high = _bounds([point[1] for point in (*held_out, *reference)])
        top, height = (bottom + _GAP, _LOWER_HEIGHT) if bits else (_TOP, _HEIGHT)
        panel = _Panel(word, len(rows), top, height, low, high)
        drawn += panel.draw(metric, [_Line(held_out, "held-out", "metric")], level)
        bottom = top + height
        if kept is not None:
            drawn += panel.ring(*kept)
    return Markup(  # every text in it is escaped above
        f'<svg viewBox="0 0 {_WIDTH} {bottom + _BOTTOM}" role="img" '
        f'aria-label="How the run went, by {word}">{drawn}{panel.axis()}</svg>'
    )


def kept_epoch(rows: Sequence[Mapping[str, Any]]) -> tuple[int, float] | None:
    """Give the epoch that was kept and its held-out metric; None where rows are no epochs.

    It is the best one, and of those that are as good the last.
    """
    points = [(value, i) for i, value, _ in _series(rows, "held_out") if "epoch" in rows[i]]
    if not points:
        return None
    value, epoch = max(points)
    return epoch, value


def _series(rows: Sequence[Mapping[str, Any]], key: str) -> _Points:
    return [
        (i, float(row[key]), row.get("accepted") is not False)
        for i, row in enumerate(rows)
        if isinstance(row.get(key), (int, float)) and math.isfinite(row[key])
    ]


def _bounds(values: Sequence[float]) -> tuple[float, float]:
    """The range of values, widened to whole steps, so that the outermost ticks are its ends.

    A constant is the upper end: no bit-width is above 8, and no accuracy above 100.
    """
    step = _step(max(values) - min(values))
    low, high = math.floor(min(values) / step) * step, math.ceil(max(values) / step) * step
    return (low, high) if high > low else (low - step, high)


def _step(span: float) -> float:
    """Choose 1, 2 or 5 times a power of ten, for three to six ticks."""
    if span <= 0:
        return 1.0
    power = 10.0 ** math.floor(math.log10(span / 3))
    return next(power * m for m in (1, 2, 5, 10) if span / (power * m) <= 5)


def _ticks(low: float, high: float) -> list[float]:
    step = _step(high - low)
    return [round(low + i * step, 10) for i in range(round((high - low) / step) + 1)]
