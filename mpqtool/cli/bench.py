"""``mpqtool bench``."""

from __future__ import annotations

__all__ = ["command"]

import contextlib
import dataclasses
import pathlib
import sys
from typing import Any

import rich_click as click

from mpqtool.runtime.providers import PROVIDERS

from .common import counted, echo_json, echo_table, json_option, number, sizes

_PROVIDERS = ("auto", *PROVIDERS)
_SHOWN = 6  # operators that are listed
_VERBS = {"layout": "change the layout", "requantize": "requantise"}


@click.command(
    "bench", epilog="Example: mpqtool bench examples/digits.onnx digits.mpq/model.int.onnx --threads 1"
)
@click.argument("files", type=click.Path(), nargs=-1, required=True, metavar="FILE...")
@click.option("--batch", default=1, show_default=True, type=click.IntRange(1), help="Samples of one run.")
@click.option("--threads", type=click.IntRange(1), help="Threads of one operator.  [default: one per core]")
@click.option("--rounds", default=30, show_default=True, type=click.IntRange(1), help="Runs of each file.")
@click.option(
    "--size", "sizes_", multiple=True, metavar="NAME=N,N,N",
    help="Shape of an input that leaves more open than the batch; once per input.",
)  # fmt: skip
@click.option(
    "--provider", default="cpu", show_default=True, type=click.Choice(_PROVIDERS), help="Where they are run."
)
@json_option
def command(
    files: tuple[str, ...],
    batch: int,
    threads: int | None,
    rounds: int,
    sizes_: tuple[str, ...],
    provider: str,
    as_json: bool,
) -> None:
    """Time ONNX files side by side, in turn, in one process; the first is what the others are compared with.

    Of quantized files it also tells what ONNX Runtime did with them: layers that it left in float, nodes
    that only change the layout or requantise, and layers that could saturate on CPUs without VNNI.
    """
    from mpqtool import api
    from mpqtool.reporter import Reporter

    with contextlib.redirect_stdout(sys.stderr):  # ONNX Runtime prints a banner when it refuses TensorRT
        result = api.bench(
            *files, batch=batch, threads=threads, rounds=rounds, sizes=sizes(sizes_), provider=provider,
            reporter=Reporter(),
        )  # fmt: skip
    found = dataclasses.asdict(result)
    if as_json:
        echo_json(found)
    else:
        _show(found)


def _show(found: dict[str, Any]) -> None:
    names = _short([row["path"] for row in found["files"]])
    echo_table(
        [
            (name, number(row["milliseconds"], digits=3), number(row["ratio"]), number(row["bytes"]))
            for name, row in zip(names, found["files"], strict=True)
        ],
        header=("file", "ms", f"x {names[0]}", "bytes"),
    )
    threads = "all cores" if found["threads"] is None else counted(found["threads"], "thread")
    shapes = [list(row["inputs"].values()) for row in found["files"]]
    click.echo(
        f"input {_inputs(found['files'][0])}; {threads}, {counted(found['rounds'], 'round')}, "
        f"{found['provider']}, ONNX Runtime {found['onnxruntime']}"
    )
    for name, row, shape in zip(names, found["files"], shapes, strict=True):
        if shape != shapes[0]:
            click.echo(f"not the same work: {name} has input {_inputs(row)}")
    for name, row in zip(names, found["files"], strict=True):
        if row["quantized"]:
            click.echo()
            _show_quantized(name, row)


def _inputs(row: dict[str, Any]) -> str:
    return ", ".join(f"{name} {'x'.join(map(str, shape))}" for name, shape in row["inputs"].items())


def _show_quantized(name: str, row: dict[str, Any]) -> None:
    share = row["share"]
    left = ", ".join(f"{op} {layer!r}" for layer, op in row["float_layers"][:_SHOWN])
    more = len(row["float_layers"]) - _SHOWN
    click.echo(f"{name}, as ONNX Runtime runs it on the CPU:")
    click.echo(
        f"  layers in float: {len(row['float_layers'])} ({share['float_layer']:.0%} of the time)"
        f"{': ' + left if left else ''}{f' and {more} more' if more > 0 else ''}"
    )
    for kind in ("layout", "requantize"):
        listed = ", ".join(f"{op} {count}" for op, count in row[kind].items()) or "none"
        click.echo(f"  nodes that only {_VERBS[kind]}: {listed} ({share[kind]:.0%} of the time)")
    total = sum(row["microseconds"].values()) or 1
    slowest = list(row["microseconds"].items())[:_SHOWN]
    listed = ", ".join(f"{op} {us / total:.0%}" for op, us in slowest)
    click.echo(f"  time by operator, profiled, which adds about 1 us to each: {listed}")
    if row["saturating"]:
        click.echo(
            f"  {counted(len(row['saturating']), 'layer')} could saturate on CPUs without VNNI, where the "
            f"file gives other numbers: {', '.join(map(repr, row['saturating'][:_SHOWN]))}"
            f"{' ...' if len(row['saturating']) > _SHOWN else ''}"
        )
    else:
        click.echo("  no layer can saturate, on any CPU")


def _short(paths: list[str]) -> list[str]:
    """File names, with their folders where two are the same."""
    names = [pathlib.Path(path).name for path in paths]
    return names if len(set(names)) == len(names) else paths
