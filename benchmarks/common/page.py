"""What every benchmark of relations writes: tables, verdicts, and a section of a page."""

from __future__ import annotations

__all__ = ["Relation", "cell", "draw", "noise", "replace_section", "spread", "table"]

import dataclasses
import math
import pathlib
from collections.abc import Iterable, Mapping, Sequence
from statistics import fmean, stdev


@dataclasses.dataclass(frozen=True)
class Relation:
    """What the paper's numbers say, and whether ours do.

    Attributes:
        experiment: Whose runs it is about.
        text: The relation.
        numbers: What was measured.
        holds: None where runs are missing.
    """

    experiment: str
    text: str
    numbers: str
    holds: bool | None

    def __str__(self) -> str:
        verdict = {True: "holds", False: "**does not hold**", None: "not measured"}[self.holds]
        return f"| {self.experiment} | {self.text} | {self.numbers} | {verdict} |"


def spread(values: Sequence[float]) -> float:
    """Standard deviation over seeds."""
    return stdev(values) if len(values) > 1 else 0.0


def noise(arms: Iterable[Sequence[float]]) -> float:
    """Twice the spread over seeds, pooled."""
    return 2 * math.sqrt(fmean(spread(arm) ** 2 for arm in arms))


def cell(values: Sequence[float], digits: int = 2) -> str:
    """Mean and spread."""
    return f"{fmean(values):.{digits}f} ± {spread(values):.{digits}f}" if values else "-"


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def draw(folder: pathlib.Path, pictures: Mapping[str, tuple[str, str | None]]) -> list[str]:
    """Write pictures, those that there are, into a folder; the lines of Markdown that show them.

    Args:
        folder: Where the page is.
        pictures: Labels and SVG by name of the file.
    """
    drawn = {name: (label, svg) for name, (label, svg) in pictures.items() if svg is not None}
    for name, (_, svg) in drawn.items():
        (folder / name).write_text(svg)
    return [f"![{label}]({name})" for name, (label, _) in drawn.items()]


def replace_section(page: pathlib.Path, name: str, text: str) -> None:
    """Put a text between the marks ``<!-- name -->`` and ``<!-- /name -->`` of a page."""
    first, last = f"<!-- {name} -->", f"<!-- /{name} -->"
    before, _, rest = page.read_text().partition(first)
    _, mark, after = rest.partition(last)
    if not mark:
        raise SystemExit(f"{page} has no section between {first} and {last}; add the two marks")
    page.write_text(f"{before}{first}\n{text}\n{last}{after}")
