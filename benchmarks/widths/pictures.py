"""Pictures of the runs: accuracy over BitOPs, and the widths of one run over its steps."""

from __future__ import annotations

__all__ = ["accuracy_over_bitops", "widths_over_steps"]

import pathlib
from statistics import fmean

from common.page import spread
from common.plane import BOTTOM, COLORS, HEIGHT, LEFT, RIGHT, WIDTH, Plane
from common.svg import document, text

from mpqtool.report.log import read
from mpqtool.report.panel import bounds
from mpqtool.report.standalone import standalone
from mpqtool.report.widths import chart

from .runs import Bench, Run
from .tables import BALANCED, GRANULAR


def accuracy_over_bitops(bench: Bench) -> str | None:
    """Accuracy of the integer file over BitOPs, a line by granularity, a point by lambda; None: no runs."""
    lines = GRANULAR | {"network": BALANCED}
    found = bench.runs([arm for arms in lines.values() for arm in arms.values()])
    every = [run for runs in found.values() for run in runs]
    if not every:
        return None
    float_accuracy = every[0].float_accuracy
    accuracies = [float_accuracy, *(run.integer for run in every)]
    plane = Plane(bounds([run.bitops for run in every]), bounds(accuracies))
    y = plane.y(float_accuracy)
    body = [
        *plane.frame("Accuracy of the integer file in %, by lambda", "BitOPs (G)"),
        f'<path stroke="#333" stroke-dasharray="4 3" d="M{LEFT} {y:.1f}H{RIGHT}"/>',
        text(LEFT + 4, y - 5, "float"),
    ]
    for place, (name, arms) in enumerate(lines.items()):
        color = COLORS[name]
        body.append(text(RIGHT - 130, BOTTOM - 50 + 18 * place, f"{name}-wise", color=color))
        points = sorted(
            (fmean(run.bitops for run in found[arm]), fmean(run.integer for run in found[arm]), value)
            for value, arm in arms.items()
            if found[arm]
        )
        path = " ".join(f"{plane.x(cost):.1f},{plane.y(accuracy):.1f}" for cost, accuracy, _ in points)
        body.append(f'<polyline class="line" stroke="{color}" points="{path}"/>')
        body += [_point(plane, found[arm], color) for arm in arms.values() if found[arm]]
        # Beside the bars, and each granularity on a side of its own.
        right, down, css = {"network": (7, 16, ""), "layer": (7, -8, ""), "kernel": (-7, -8, "end")}[name]
        for cost, accuracy, value in points:
            at = plane.x(cost) + right, plane.y(accuracy) + down
            body.append(text(*at, f"{value:g}", css, color=color))
    return document(body, WIDTH, HEIGHT, "Accuracy over BitOPs, by granularity and lambda")


def widths_over_steps(log: pathlib.Path) -> str | None:
    """The paper's figure 1, of one run; None where its log has too little for one."""
    drawn = chart(read(log))
    return None if drawn is None else standalone(str(drawn))


def _point(plane: Plane, runs: list[Run], color: str) -> str:
    """A dot at the means, with the spread of both as bars."""
    (x, dx), (y, dy) = (
        (fmean(found), spread(found))
        for found in ([run.bitops for run in runs], [run.integer for run in runs])
    )
    bar = f"M{plane.x(x - dx):.1f} {plane.y(y):.1f}H{plane.x(x + dx):.1f}"
    bar += f"M{plane.x(x):.1f} {plane.y(y - dy):.1f}V{plane.y(y + dy):.1f}"
    return f'<path class="bar" stroke="{color}" d="{bar}"/>{plane.dot(x, y, color)}'
