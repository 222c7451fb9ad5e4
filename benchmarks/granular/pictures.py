"""Pictures of the runs: figure 4 of the IMPQ paper, for every network."""

from __future__ import annotations

__all__ = ["accuracy_over_compression"]

from common.plane import BOTTOM, COLORS, HEIGHT, LEFT, WIDTH, Plane
from common.svg import document, text

from mpqtool.report.panel import bounds

from .arms import BASELINE, UNIFORM, searched
from .runs import Bench

_LOWEST = 3.0
"""Points below the best that are drawn: what was rolled back is not, but uniform widths may be far below."""
_UNIFORM = "#666"


def accuracy_over_compression(bench: Bench, network: str) -> str | None:
    """Accuracy on held-out images over compression, a line by granularity, a dot by iteration.

    None: a run is missing.
    """
    runs = {name: bench.find(network, arm) for name, arm in searched(network).items()}
    lines = {
        name: [(BASELINE / point.bits, point.accuracy) for point in run.points]
        for name, run in runs.items()
        if run is not None
    }
    if len(lines) < len(runs):
        return None
    uniform = [run for run in (bench.find(network, arm) for arm in UNIFORM.values()) if run is not None]
    dots = [(BASELINE / run.weights, run.held_out) for run in uniform]
    best = max(y for line in lines.values() for _, y in line)
    drawn = [point for points in (*lines.values(), dots) for point in points if point[1] > best - _LOWEST]
    plane = Plane(bounds([x for x, _ in drawn]), bounds([y for _, y in drawn]))
    body = plane.frame(
        f"{network}: accuracy on held-out images in %, by iteration", f"compression against {BASELINE} bits"
    )
    for place, (name, points) in enumerate(lines.items()):
        body.append(text(LEFT + 10, BOTTOM - 66 + 18 * place, f"{name}-wise", color=COLORS[name]))
        path = " ".join(f"{plane.x(x):.1f},{plane.y(y):.1f}" for x, y in points)
        body.append(f'<polyline class="line" stroke="{COLORS[name]}" points="{path}"/>')
        body += [plane.dot(*point, COLORS[name]) for point in points]
    body.append(text(LEFT + 10, BOTTOM - 12, "LSQ, the same bits but for both ends", color=_UNIFORM))
    body += [plane.dot(*point, _UNIFORM) for point in dots if point in drawn]
    return document(body, WIDTH, HEIGHT, f"{network}: accuracy over compression, by granularity")
