"""``mpqtool lower``."""

from __future__ import annotations

__all__ = ["command"]

import dataclasses
import os

import rich_click as click

from mpqtool.options import LOWER
from mpqtool.passes.targets import TARGETS

from .common import echo_json, json_option, number, sizes, vnni_option

_POOR = (
    "less than half of the network became integer. Quantize activations and weights to 8 bits or less, "
    "or give the float model to `mpqtool quantize`."
)


@click.command("lower", epilog="Example: mpqtool lower digits.mpq/model.qdq.onnx -o digits.int.onnx")
@click.argument("qdq", type=click.Path())
@click.option("--out", "-o", required=True, type=click.Path(), metavar="INT.onnx", help="The integer file.")
@click.option(
    "--target",
    default="cpu",
    show_default=True,
    type=click.Choice(list(TARGETS)),
    help="What it is to run on. " + " ".join(f"{name}: {what}." for name, what in TARGETS.items()),
)
@click.option(
    "--lower",
    default="full",
    show_default=True,
    type=click.Choice(LOWER),
    help="full: all that can be is integer; fastest: what is slower in integers on this machine stays float.",
)
@vnni_option
@click.option(
    "--threads",
    type=click.IntRange(1),
    help="Threads of one operator, with --lower fastest.  [default: one per core]",
)
@click.option(
    "--size",
    "sizes_",
    multiple=True,
    metavar="NAME=N,N,N",
    help="Shape of an input that leaves more open than the batch, with --lower fastest; once per input.",
)
@json_option
def command(
    qdq: str,
    out: str,
    target: str,
    lower: str,
    vnni: bool | None,
    threads: int | None,
    sizes_: tuple[str, ...],
    as_json: bool,
) -> None:
    """Make the integer file of QDQ, a quantized file of ours or another tool's.

    A layer becomes integer if its input and its result are uint8 or int8 codes with one scale each, and its
    weights codes of 8 bits or less, with one scale or one per kernel. So do onnxruntime.quantization (QDQ
    format), NNCF, AMD Quark, AIMET and Brevitas (QCDQ) quantize. Others stay float; how many, and why, is
    said. The integers are the same for every target.

    This proves nothing yet: follow it with `mpqtool verify INT.onnx --against QDQ.onnx`.
    """
    from mpqtool import api
    from mpqtool.coverage import lowered_layers
    from mpqtool.reporter import Reporter

    path = api.lower(
        qdq,
        out,
        target=target,
        lower=lower,
        vnni=vnni,
        threads=threads,
        sizes=sizes(sizes_),
        reporter=Reporter(),
    )
    bytes_ = {"qdq": os.path.getsize(qdq), "integer": os.path.getsize(path)}
    layers = lowered_layers(path)
    for line in layers.lines():
        click.echo(line, err=True)
    if layers.is_poor and lower == "full":
        click.echo(f"warning: {_POOR}", err=True)
    if as_json:
        echo_json(
            {"path": str(path), "target": target, "bytes": bytes_, "layers": dataclasses.asdict(layers)}
        )
    else:
        click.echo(f"{path}  {number(bytes_['integer'])} bytes (QDQ: {number(bytes_['qdq'])})")
