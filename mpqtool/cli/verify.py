"""``mpqtool verify``."""

from __future__ import annotations

__all__ = ["command"]

import contextlib
import dataclasses
import sys
from typing import Any

import rich_click as click

from mpqtool.runtime.providers import PROVIDERS

from .common import echo_json, echo_table, json_option, number

_PROVIDERS = ("auto", *PROVIDERS)


@click.command(
    "verify",
    epilog="Example: mpqtool verify digits.mpq/model.int.onnx --against digits.mpq/model.qdq.onnx "
    "--data examples/digits.npz",
)
@click.argument("int_path", metavar="INT", type=click.Path())
@click.option(
    "--against", required=True, type=click.Path(), metavar="QDQ.onnx", help="What it was made from."
)
@click.option("--data", metavar="SPEC", help="Samples; the test split is used.  [default: those of the run]")
@click.option(
    "--provider", default="cpu", show_default=True, type=click.Choice(_PROVIDERS), help="Where it is run."
)
@json_option
@click.pass_context
def command(
    ctx: click.Context, int_path: str, against: str, data: str | None, provider: str, as_json: bool
) -> None:
    """Hold the integer file INT against the QDQ file it was made from.

    torch, numpy and ONNX Runtime must give the same integers at every quantized tensor, at every graph
    optimisation level. The exit status is 1 if one differs.
    """
    from mpqtool import api
    from mpqtool.reporter import Reporter

    with contextlib.redirect_stdout(sys.stderr):  # ONNX Runtime prints a banner when it refuses TensorRT
        result = api.verify(int_path, against=against, data=data, provider=provider, reporter=Reporter())
    found = dataclasses.asdict(result)
    if as_json:
        echo_json(found)
    else:
        _show(found)
    if not result.passed:
        ctx.exit(1)


def _show(found: dict[str, Any]) -> None:
    islands, off = found["island_compared"], found["island_different"]
    rows = [
        ("verified", "yes" if found["passed"] else "no"),
        ("provider", str(found["provider"])),
        ("codes compared", number(found["codes_compared"])),
        ("codes different", number(found["codes_different"])),
        ("codes behind float operators", number(islands)),
        ("of these, different by one", f"{number(off)} ({off / islands:.4%})" if islands else "-"),
        ("real values compared", number(found["real_compared"])),
        ("... as far off as rounding takes them", number(found["real_unsettled"])),
        ("QDQ largest difference", number(found["qdq_max_lsb"], " codes")),
        ("QDQ codes that differ", "-" if found["qdq_rate"] is None else f"{found['qdq_rate']:.4%}"),
    ]
    rows += [
        ("layer by layer, largest difference", number(found["local_max_lsb"], " codes")),
        ("codes that differ so", "-" if found["local_rate"] is None else f"{found['local_rate']:.4%}"),
        ("tensors not compared so", number(found["local_left_out"])),
    ]
    if found.get("first_different"):
        rows.append(("first different", str(found["first_different"])))
    echo_table(rows)
    click.echo(f"reference compared with {', '.join(found['engines'])}")
