"""The table of operators in README.md, from the importer's registry.

Run as ``python tests/support_table.py`` it writes the table into README.md.
"""

from __future__ import annotations

import pathlib

import mpqtool.importer  # noqa: F401 - its handlers register themselves
from mpqtool.importer.registry import supported

README = pathlib.Path(__file__).parents[1] / "README.md"
BEGIN, END = "<!-- support table -->\n", "<!-- end of support table -->"


def table() -> str:
    """One row per operator: its name, and since which opsets its schemas are known."""
    rows = [f"| {name} | {', '.join(map(str, versions))} |" for name, versions in supported().items()]
    return "\n".join(["| operator | schema versions |", "| --- | --- |", *rows]) + "\n"


def with_table(text: str) -> str:
    """The text with the table between its two marks."""
    head, _, rest = text.partition(BEGIN)
    return f"{head}{BEGIN}{table()}{END}{rest.partition(END)[2]}"


if __name__ == "__main__":
    README.write_text(with_table(README.read_text()))
