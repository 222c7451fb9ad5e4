"""``mpqtool lower``."""

from __future__ import annotations

__all__ = ["command"]

import dataclasses
import os

import rich_click as click

from mpqtool.options import TARGETS

from .common import echo_json, json_option, number

_POOR = (
    "less than half of the network became integer. Quantize to uint8 activations and symmetric int8 weights, "
    "or give the float model to `mpqtool quantize`."
)


@click.command("lower", epilog="Example: mpqtool lower digits.mpq/model.qdq.onnx -o digits.int.onnx")
@click.argument("qdq", type=click.Path())
@click.option("--out", "-o", required=True, type=click.Path(), metavar="INT.onnx", help="The integer file.")
@click.option(
    "--target", default="cpu", show_default=True, type=click.Choice(TARGETS), help="What it is to run on."
)
@json_option
def command(qdq: str, out: str, target: str, as_json: bool) -> None:
    """Make the integer file of QDQ, a quantized file of ours or another tool's.

    A layer becomes integer if its input and its result are uint8 codes with one scale each, and its weights
    symmetric int8 codes, with one scale or one per kernel. Others stay float; how many, and why, is said.

    This proves nothing yet: follow it with `mpqtool verify INT.onnx --against QDQ.onnx`.
    """
    from mpqtool import api
    from mpqtool.coverage import lowered_layers

    path = api.lower(qdq, out, target=target)
    sizes = {"qdq": os.path.getsize(qdq), "integer": os.path.getsize(path)}
    layers = lowered_layers(path)
    for line in layers.lines():
        click.echo(line, err=True)
    if layers.is_poor:
        click.echo(f"warning: {_POOR}", err=True)
    if as_json:
        echo_json({"path": str(path), "target": target, "bytes": sizes, "layers": dataclasses.asdict(layers)})
    else:
        click.echo(f"{path}  {number(sizes['integer'])} bytes (QDQ: {number(sizes['qdq'])})")
