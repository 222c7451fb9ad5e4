"""How learned widths went: the picture of AdaQAT's figure 1, drawn from the log."""

from __future__ import annotations

__all__ = ["chart", "endings"]

import collections
import itertools
import math
from collections.abc import Sequence

from markupsafe import Markup

from .log import Frozen, Log, Widths
from .panel import WIDTH, Label, Panel, bounds, names, ticks
from .series import Points, smoothed, thinned, usual

_BITS, _LOSS, _COUNTS, _GAP = 200, 120, 90, 40
"""Pixels: heights of the panels, and what is between them."""
_TOP, _BOTTOM = 22, 30
_RINGS = {"weights": 5, "activations": 8}
"""Radius in pixels: one may be around the other."""
_RUG = 6
"""Pixels of the marks below the bits, where many widths stop."""

_KINDS = ("activations", "weights")
"""In the order they are drawn."""
_DRAWN_BITS = (*_KINDS, "activation_bits", "weight_bits")

_REASONS = {
    "oscillation": "they oscillated between {widths}",
    "bound": "they may go no further",
    "stall": "they no longer moved",
    "budget": "the steps of the search were used up",
}


def chart(log: Log) -> Markup | None:
    """Draw bits, task loss and oscillations over steps; None if there are fewer than two updates.

    Of a line no more than a few hundred points are drawn, however long the log is.

    Source: Gernigon et al., "AdaQAT: Adaptive Bit-Width Quantization-Aware Training", figure 1.
    """
    rows = [row for row in log.widths if row.weight_bits is not None or row.activation_bits is not None]
    if len(rows) < 2:
        return None
    first, last = 0, max([rows[-1].step, *(event.step for event in log.frozen)])
    bits = [value for key in _DRAWN_BITS for _, value in _series(rows, key)]
    panel = Panel(first, last, _TOP, _BITS, *bounds([*bits, *(event.bits for event in log.frozen)]))
    drawn = _bits(panel, rows) + _marks(panel, log.frozen)
    losses = _series(rows, "loss")
    if losses:
        smooth = smoothed(losses)
        room = bounds([*usual(losses), *(value for _, value in smooth)])
        panel = Panel(first, last, panel.bottom + _GAP, _LOSS, *room)
        # what was no number is not in the series
        ends = f"loss {smooth[-1][1]:.3g}" if losses[-1][0] == rows[-1].step else "loss: no number"
        drawn += panel.frame("task loss") + _polyline(panel, losses, "line raw metric")
        drawn += _polyline(panel, smooth, "line metric") + names([_label(panel, smooth, ends)])
    counts = [value for kind in _KINDS for _, value in _series(rows, f"{kind[:-1]}_oscillations")]
    panel = Panel(first, last, panel.bottom + _GAP, _COUNTS, *bounds([0, 3, *counts]))
    drawn += _oscillations(panel, rows)
    drawn += panel.axis([tick for tick in ticks(*bounds([first, last])) if tick <= last], "step")
    return Markup(  # every text in it is escaped
        f'<svg viewBox="0 0 {WIDTH} {panel.bottom + _BOTTOM:.0f}" role="img" '
        f'aria-label="Bit-widths, task loss and oscillations, by step">{drawn}</svg>'
    )


def endings(log: Log) -> list[str]:
    """Say how the search ended: a line for each width of the network, counts where there are many."""
    last = {(event.granularity, event.variable): event for event in log.frozen}
    lines, many = [], collections.defaultdict[tuple[str, str], list[Frozen]](list)
    for event in last.values():
        if event.is_shared:
            lines.append(_ending(event))
        else:
            many[event.granularity, event.kind].append(event)
    for (granularity, kind), events in many.items():
        reasons = collections.Counter(event.reason for event in events).most_common()
        counts = ", ".join(f"{count:,} {reason}" for reason, count in reasons)
        lines.append(f"{_noun(granularity, kind, len(events))}: {counts}")
    found = {event.reason for events in many.values() for event in events}
    told = [f"{name}: {why.format(widths='two widths')}" for name, why in _REASONS.items() if name in found]
    return [*lines, "; ".join(told)] if told else lines


def _ending(event: Frozen) -> str:
    bits = f"{event.bits} {'bit' if event.bits == 1 else 'bits'}"
    why = _REASONS.get(event.reason)
    told = "" if why is None else why.format(widths=f"{event.bits - 1} and {event.bits}") + " "
    return f"{event.variable} stop at {bits}: {told}({event.reason}), step {event.step:,}"


def _noun(granularity: str, kind: str, count: int) -> str:
    if kind == "activations":
        return f"{count:,} {'activation' if count == 1 else 'activations'}"
    return f"weights of {count:,} {granularity if count == 1 else f'{granularity}s'}"


def _bits(panel: Panel, rows: Sequence[Widths]) -> str:
    """Draw the relaxed widths as thin lines, and those in use as steps."""
    drawn, labels = panel.frame("bits"), []
    for kind in _KINDS:
        used = _series(rows, f"{kind[:-1]}_bits")
        if not used:  # none of its widths are learned
            continue
        drawn += _polyline(panel, _series(rows, kind), f"line thin {kind}")
        drawn += _steps(panel, used, f"line {kind}")
        labels.append(_label(panel, used, f"{kind} {used[-1][1]:.2f}"))
    return drawn + names(labels, panel.bottom + 4)


def _marks(panel: Panel, frozen: Sequence[Frozen]) -> str:
    """Mark where widths stopped: with rings those of the network, with ticks at the foot others."""
    rings, feet = [], dict[tuple[str, str], None]()
    for event in frozen:
        x, y = panel.x(event.step), panel.y(event.bits)
        if not event.is_shared:
            feet[event.kind, f"{x:.0f}"] = None
            continue
        rings.append(
            f'<circle class="ring {event.kind}" cx="{x:.1f}" cy="{y:.1f}" r="{_RINGS[event.kind]}">'
            f"<title>{Markup.escape(_ending(event))}</title></circle>"
        )
    for i, kind in enumerate(_KINDS):
        y = panel.bottom - _RUG * (i + 1)
        path = "".join(f"M{x} {y:.0f}v{_RUG}" for k, x in feet if k == kind)
        rings.append(f'<path class="line thin {kind}" d="{path}"/>' if path else "")
    return "".join(rings)


def _oscillations(panel: Panel, rows: Sequence[Widths]) -> str:
    drawn, labels = panel.frame("oscillations, the most of any width"), []
    for kind in _KINDS:
        counts = _series(rows, f"{kind[:-1]}_oscillations")
        if not counts:
            continue
        drawn += _steps(panel, counts, f"line {kind}")
        labels.append(_label(panel, counts, f"{kind} {counts[-1][1]:.0f}"))
    return drawn + names(labels, panel.bottom + 4)


def _series(rows: Sequence[Widths], key: str) -> Points:
    values = ((row.step, getattr(row, key)) for row in rows)
    return [(step, float(value)) for step, value in values if value is not None and math.isfinite(value)]


def _label(panel: Panel, points: Points, text: str) -> Label:
    return panel.y(points[-1][1]), text


def _polyline(panel: Panel, points: Points, css: str) -> str:
    """Draw a line, along the edge of the panel where it would leave it."""
    path = " ".join(
        f"{panel.x(step):.1f},{panel.y(min(max(value, panel.low), panel.high)):.1f}"
        for step, value in thinned(points)
    )
    return f'<polyline class="{css}" points="{path}"/>'


def _steps(panel: Panel, points: Points, css: str) -> str:
    """Draw a line that holds each value until the next change."""
    changes = [b for a, b in itertools.pairwise(points) if b[1] != a[1]]
    kept = thinned([points[0], *changes, points[-1]])
    moves = "".join(f"H{panel.x(step):.1f}V{panel.y(value):.1f}" for step, value in kept[1:])
    return f'<path class="{css}" d="M{panel.x(kept[0][0]):.1f} {panel.y(kept[0][1]):.1f}{moves}"/>'
