"""What several commands share: printing JSON, tables, and options of one meaning."""

from __future__ import annotations

__all__ = [
    "counted", "echo_json", "echo_table", "heavy_imports", "json_option", "number", "numbers", "size",
    "sizes", "vnni_option",
]  # fmt: skip

import contextlib
import gc
import json
import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import rich_click as click


@contextlib.contextmanager
def heavy_imports() -> Iterator[None]:
    """A block that loads modules: as they all stay, no garbage is looked for among them, then or later.

    The collector would go through what torch loads again and again, for half a second of three.
    """
    if gc.get_freeze_count() or not gc.isenabled():
        yield
        return
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()


def json_option(function: Callable[..., Any]) -> Callable[..., Any]:
    """Add ``--json``: JSON alone on standard output, everything else on standard error."""
    return click.option(
        "--json", "as_json", is_flag=True, help="Print JSON, and nothing else, on standard output."
    )(function)


def vnni_option(function: Callable[..., Any]) -> Callable[..., Any]:
    """Add ``--vnni`` and ``--no-vnni``."""
    return click.option(
        "--vnni/--no-vnni", default=None,
        help="Whether the file is for CPUs with VNNI only: instructions that add products of codes in 32 "
        "bits. Others add in 16, where int8 weights can saturate; --no-vnni makes a file that is exact "
        "on every CPU, but slower.  [default: --vnni if this CPU has it]",
    )(function)  # fmt: skip


def echo_json(value: object) -> None:
    """Print one JSON document on standard output; NaN and infinity, which JSON has not, are null."""
    click.echo(json.dumps(_finite(value), indent=2, allow_nan=False, default=str))


def _finite(value: object) -> object:
    if isinstance(value, Mapping):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def echo_table(rows: Sequence[Sequence[str]], *, header: Sequence[str] | None = None) -> None:
    """Print rows in aligned columns on standard output: the first to the left, the others to the right."""
    shown = [list(map(str, row)) for row in ([header, *rows] if header else rows)]
    widths = [max(len(row[i]) for row in shown) for i in range(len(shown[0]))]
    for index, row in enumerate(shown):
        cells = [
            row[0].ljust(widths[0]),
            *(cell.rjust(w) for cell, w in zip(row[1:], widths[1:], strict=True)),
        ]
        click.echo("  ".join(cells).rstrip())
        if header and index == 0:
            click.echo("  ".join("-" * width for width in widths))


def number(value: float | None, unit: str = "", digits: int = 2) -> str:
    """Write a number for a person, ``-`` where it was not measured; whole numbers with thin separators."""
    if value is None:
        return "-"
    text = f"{value:,}" if isinstance(value, int) else f"{value:,.{digits}f}"
    return text + unit


def counted(count: int, noun: str) -> str:
    """Write ``1 layer`` or ``3 layers``."""
    return f"{count} {noun}{'' if count == 1 else 's'}"


def size(text: str | tuple[int, int]) -> tuple[int, int]:
    """Read ``32x32`` or ``32``: height and width."""
    if isinstance(text, tuple):
        return text
    match = re.fullmatch(r"(\d+)(?:x(\d+))?", text.strip())
    if match is None:
        raise click.BadParameter(f"{text!r} is not a size; write 32x32 for height and width.")
    return int(match[1]), int(match[2] or match[1])


def sizes(texts: Sequence[str]) -> dict[str, tuple[int, ...]]:
    """Read ``x=1,3,48,192``, once per input: the shape of each by name."""
    found = {}
    for text in texts:
        match = re.fullmatch(r"(.+)=(\d+(?:,\d+)*)", text.strip())
        if match is None:
            raise click.BadParameter(f"{text!r} is not the shape of an input; write NAME=1,3,48,192.")
        found[match[1]] = tuple(int(part) for part in match[2].split(","))
    return found


def numbers(text: str | tuple[float, ...]) -> tuple[float, ...]:
    """Read ``0.5`` or ``0.49,0.48,0.45``: one number for all channels, or one for each."""
    if isinstance(text, tuple):
        return text
    try:
        return tuple(float(part) for part in text.split(","))
    except ValueError:
        raise click.BadParameter(f"{text!r} is not a list of numbers; write 0.49,0.48,0.45.") from None
