"""Pictures drawn by hand in SVG: a few kilobytes, where a plotting library would be megabytes."""

from __future__ import annotations

__all__ = ["Segment", "distribution", "history", "kept_epoch", "mean_bits", "segments"]

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

from markupsafe import Markup

from mpqtool.result import LayerBits

from .panel import WIDTH, Label, Panel, bounds, names

_HEIGHT, _LOWER_HEIGHT, _TOP, _GAP, _BOTTOM = 180, 120, 22, 44, 30
_MOST_NUMBERS = 16

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


def _draw(panel: Panel, title: str, lines: Sequence[_Line], word: str, level: float | None = None) -> str:
    """Draw the frame, the lines and their names; ``level`` is the float network's value, if known."""
    labels = [_label(panel, line) for line in lines]
    if level is not None:
        labels.append((panel.y(level), f"float {level:.2f}"))
    return "".join(
        [panel.frame(title), "" if level is None else panel.rule(level, "line float")]
        + [_line(panel, line, word) for line in lines]
        + [names(labels)]
    )


def _line(panel: Panel, line: _Line, word: str) -> str:
    """Draw a series; what was rolled back is a hollow point beside the line."""
    path = " ".join(f"{panel.x(i):.1f},{panel.y(value):.1f}" for i, value, kept in line.points if kept)
    parts = [f'<polyline class="line {line.css}" points="{path}"/>']
    for i, value, kept in line.points:
        hollow, note = ("", "") if kept else (" hollow", ", rolled back")
        x, y = panel.x(i), panel.y(value)
        parts.append(
            f'<circle class="dot {line.css}{hollow}" cx="{x:.1f}" cy="{y:.1f}" r="3.5">'
            f"<title>{word} {i}: {line.name} {value:.2f}{note}</title></circle>"
        )
    return "".join(parts)


def _label(panel: Panel, line: _Line) -> Label:
    """Name a series, with the value that the run ended with."""
    kept = [point for point in line.points if point[2]] or line.points
    value = kept[-1][1]
    return panel.y(value), f"{line.name} {value:.2f}"


def _ring(panel: Panel, index: int, value: float) -> str:
    """Mark the point that was kept."""
    return f'<circle class="ring" cx="{panel.x(index):.1f}" cy="{panel.y(value):.1f}" r="7.5"/>'


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
    word, drawn, bottom, last = "iteration" if kept is None else "epoch", "", 0, len(rows) - 1
    if bits:
        low, high = bounds([value for line in bits for _, value, _ in line.points])
        panel = Panel(0, last, _TOP, _HEIGHT, low, high)
        drawn, bottom = _draw(panel, "effective bits", bits, word), _TOP + _HEIGHT
    if held_out:
        reference = _series(rows[:1], "float_held_out")
        level = reference[0][1] if reference else None
        low, high = bounds([point[1] for point in (*held_out, *reference)])
        top, height = (bottom + _GAP, _LOWER_HEIGHT) if bits else (_TOP, _HEIGHT)
        panel = Panel(0, last, top, height, low, high)
        drawn += _draw(panel, metric, [_Line(held_out, "held-out", "metric")], word, level)
        bottom = top + height
        if kept is not None:
            drawn += _ring(panel, *kept)
    drawn += panel.axis(range(0, len(rows), math.ceil(len(rows) / _MOST_NUMBERS)), word)
    return Markup(  # every text in it is escaped above
        f'<svg viewBox="0 0 {WIDTH} {bottom + _BOTTOM}" role="img" '
        f'aria-label="How the run went, by {word}">{drawn}</svg>'
    )


def kept_epoch(rows: Sequence[Mapping[str, Any]]) -> tuple[int, float] | None:
    """Give the epoch that was kept and its held-out metric; None where rows are no epochs.

    It is the best one behind the search for widths, and of those that are as good the last.
    """
    points = [
        (value, i)
        for i, value, _ in _series(rows, "held_out")
        if "epoch" in rows[i] and not rows[i].get("searching")
    ]
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
