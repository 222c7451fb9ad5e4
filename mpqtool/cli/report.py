"""``mpqtool report``."""

from __future__ import annotations

__all__ = ["command"]

import rich_click as click

from .common import echo_json, json_option


@click.command("report", epilog="Example: mpqtool report digits.mpq")
@click.argument("run_dir", metavar="DIR", type=click.Path())
@json_option
def command(run_dir: str, as_json: bool) -> None:
    """Write report.html again, from the result.json, plan.json and log.jsonl of the run directory DIR."""
    from mpqtool.report import build

    path = build(run_dir)
    if as_json:
        echo_json({"path": str(path), "bytes": path.stat().st_size})
    else:
        click.echo(str(path))
