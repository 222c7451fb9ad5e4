"""The HTML page of a run: one file, no network, no script."""

from __future__ import annotations

__all__ = ["build"]

import json
import os
import pathlib

import jinja2
import pydantic

from mpqtool.errors import DataError
from mpqtool.files import write_text
from mpqtool.passes.plan import ActivationQuant
from mpqtool.result import SYNTHETIC, ResultFile
from mpqtool.rundir import LOG, PLAN, REPORT, RESULT

from . import charts, log, widths, words
from .ranges import ranges

_FOLDER = pathlib.Path(__file__).parent
_OPEN_RANGES = 60
"""Rows of the table of activations that are seen at once; the others are folded."""


def build(run_dir: str | os.PathLike[str]) -> pathlib.Path:
    """Write ``report.html`` from the ``result.json``, ``plan.json`` and ``log.jsonl`` of a run directory.

    Only ``result.json`` must be there; what it leaves null is shown as not measured.

    Returns:
        The path of the page.

    Raises:
        DataError: There is no ``result.json``, or it is not one of ours.
    """
    folder = pathlib.Path(run_dir)
    source = folder / RESULT
    if not source.is_file():
        raise DataError(
            f"No such file: {str(source)!r}. Give the run directory that `mpqtool quantize` made."
        )
    try:
        result = ResultFile.from_json(source.read_text(encoding="utf-8"))
    except pydantic.ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"])) or "the file"
        raise DataError(f"{str(source)!r} is not a result of mpqtool: {where}: {first['msg']}") from error
    page = folder / REPORT
    activations, left_float = _plan(folder / PLAN)
    write_text(page, _render(result, activations, left_float, log.read(folder / LOG)))
    return page


def _render(
    result: ResultFile, activations: list[ActivationQuant], left_float: dict[str, str], told: log.Log
) -> str:
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(_FOLDER),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "number": words.number,
        "size": words.size,
        "short": words.short,
        "signed": words.signed,
    }
    metric, unit = words.metric(result)
    shown = ranges(activations)
    rows = [{key.removesuffix(SYNTHETIC): value for key, value in row.items()} for row in result.history]
    search = [row for row in rows if row.get("phase") != "integers"]
    integers = next((row for row in rows if row.get("phase") == "integers"), None)
    return environment.get_template("page.html").render(
        r=result,
        method=words.METHODS.get(result.method, result.method),
        unit=unit,
        metric=metric,
        name=pathlib.PurePath(result.model.path).name,
        verdict=words.verdict(result),
        drop=words.drop(result),
        history=charts.history(search, words.held_out(result)),
        kept=charts.kept_epoch(search),
        integers=integers,
        distribution=charts.distribution(result.bits.layers),
        layers=[(layer, charts.segments(layer), charts.mean_bits(layer)) for layer in result.bits.layers],
        ranges=[part for part in (shown[:_OPEN_RANGES], shown[_OPEN_RANGES:]) if part],
        has_offsets=any(found.entry.offset for found in shown),
        left_float=left_float,
        warnings=told.warnings,
        widths=widths.chart(told),
        endings=widths.endings(told),
        settings=words.settings(result.settings),
    )


def _plan(path: pathlib.Path) -> tuple[list[ActivationQuant], dict[str, str]]:
    """Read the activations of the plan, and what it leaves in float; nothing of a plan of another version."""
    try:
        plan = json.loads(path.read_text())
        entries = [ActivationQuant.model_validate(entry, extra="ignore") for entry in plan["activations"]]
        return entries, dict(plan.get("left_float", {}))
    except (OSError, ValueError, KeyError, TypeError):
        return [], {}
