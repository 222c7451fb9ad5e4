"""What ``mpqtool sensitivity`` writes beside what it prints: tables for other tools, and a picture."""

from __future__ import annotations

__all__ = ["plot", "widths_file", "write_csv"]

import csv
import io
import math
import pathlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from markupsafe import Markup

from mpqtool.files import write_text

from .panel import WIDTH, Label, Panel, bounds, names
from .standalone import standalone

_TOP, _HEIGHT, _GAP, _BOTTOM = 30, 220, 70, 34
_NONE = "none of the samples"


def write_csv(path: pathlib.Path, found: Mapping[str, Any]) -> None:
    """Write the groups to ``path``, and the uniform widths to ``widths_file(path)``."""
    _write_rows(path, found["groups"])
    _write_rows(widths_file(path), found["uniform"])


def widths_file(path: pathlib.Path) -> pathlib.Path:
    """Name the file of the uniform widths, beside that of the groups: ``groups.uniform.csv``."""
    return path.with_name(f"{path.stem}.uniform{path.suffix}")


def _write_rows(path: pathlib.Path, rows: Sequence[Mapping[str, Any]]) -> None:
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)  # None, as the kernel of an activation, is an empty cell
    write_text(path, text.getvalue())


def plot(found: Mapping[str, Any]) -> str:
    """Draw the mismatch over the uniform widths, and the sensitivity of all groups, tensor by tensor."""
    drawn, bottom = "", 0.0
    rows = found["uniform"]
    if rows[0]["bound"] is not None:
        drawn, bottom = _mismatch(rows, found["samples"]), _TOP + _HEIGHT + _GAP - _TOP
    drawn += _groups(found["groups"], bottom + _TOP)
    height = bottom + _TOP + _HEIGHT + _BOTTOM
    return standalone(
        f'<svg viewBox="0 0 {WIDTH} {height:.0f}" role="img" aria-label="Sensitivity">{drawn}</svg>'
    )


def _mismatch(rows: Sequence[Mapping[str, Any]], samples: int) -> str:
    """Bound and measured mismatch, by powers of ten; what was measured as 0 is a hollow point at the foot."""
    lines = [("weights", "bound"), ("activations", "measured")]
    lines = [(css, key) for css, key in lines if rows[0][key] is not None]
    low, high = bounds([math.log10(row[key]) for row in rows for _, key in lines if row[key] > 0] or [0.0])
    panel = Panel(rows[0]["bits"], rows[-1]["bits"], _TOP, _HEIGHT, low, high)
    drawn = panel.frame(
        f"share of {samples} samples with another answer, log10, by bits of all weights; hollow: none"
    )
    drawn += panel.axis([row["bits"] for row in rows], "bits")
    labels: list[Label] = []
    for css, key in lines:
        at = {row["bits"]: math.log10(row[key]) if row[key] > 0 else low for row in rows}
        seen = [row["bits"] for row in rows if row[key] > 0]
        path = " ".join(f"{panel.x(bits):.1f},{panel.y(at[bits]):.1f}" for bits in seen)
        drawn += f'<polyline class="line {css}" points="{path}"/>'
        for row in rows:
            hollow, value = ("", f"{row[key]:.3g}") if row[key] > 0 else (" hollow", _NONE)
            title = f"{row['bits']} bits: {key} {value}"
            drawn += _dot(panel, row["bits"], at[row["bits"]], f"{css}{hollow}", title, 3.5)
        labels.append((panel.y(at[rows[-1]["bits"]]), key))
    return drawn + names(labels)


def _groups(groups: Iterable[Mapping[str, Any]], top: float) -> str:
    """A column of dots for each tensor, the most sensitive to the left."""
    tensors: dict[str, list[Mapping[str, Any]]] = {}
    for row in groups:
        if row["sensitivity"] > 0:
            tensors.setdefault(row["name"], []).append(row)
    if not tensors:
        return ""
    low, high = bounds([math.log10(row["sensitivity"]) for rows in tensors.values() for row in rows])
    panel = Panel(0, len(tensors) - 1, top, _HEIGHT, low, high)
    drawn = panel.frame(
        "sensitivity of each kernel and activation at 8 bits, log10; a column for each tensor"
    )
    labels: dict[str, float] = {}
    for place, (name, rows) in enumerate(tensors.items()):
        for row in rows:
            css = "activations" if row["kernel"] is None else "weights"
            which = "" if row["kernel"] is None else f", kernel {row['kernel']}"
            value = math.log10(row["sensitivity"])
            title = f"{name}{which}: {row['sensitivity']:.3g}"
            drawn += _dot(panel, place, value, f"dense {css}", title, 2.5)
            labels[css] = panel.y(value)
    return drawn + names([(y, css) for css, y in labels.items()])


def _dot(panel: Panel, position: float, value: float, css: str, title: str, radius: float) -> str:
    return (
        f'<circle class="dot {css}" cx="{panel.x(position):.1f}" cy="{panel.y(value):.1f}" r="{radius}">'
        f"<title>{Markup.escape(title)}</title></circle>"
    )
