"""``mpqtool lower``."""

from __future__ import annotations

__all__ = ["command"]

import os

import rich_click as click

from mpqtool.options import TARGETS

from .common import echo_json, json_option, number


@click.command("lower", epilog="Example: mpqtool lower digits.mpq/model.qdq.onnx -o digits.int.onnx")
@click.argument("qdq", type=click.Path())
@click.option("--out", "-o", required=True, type=click.Path(), metavar="INT.onnx", help="The integer file.")
@click.option(
    "--target", default="cpu", show_default=True, type=click.Choice(TARGETS), help="What it is to run on."
)
@json_option
def command(qdq: str, out: str, target: str, as_json: bool) -> None:
    """Make the integer file of QDQ, a quantized file of ours or another tool's.

    This proves nothing yet: follow it with `mpqtool verify INT.onnx --against QDQ.onnx`.
    """
    from mpqtool import api

    path = api.lower(qdq, out, target=target)
    sizes = {"qdq": os.path.getsize(qdq), "integer": os.path.getsize(path)}
    if as_json:
        echo_json({"path": str(path), "target": target, "bytes": sizes})
    else:
        click.echo(f"{path}  {number(sizes['integer'])} bytes (QDQ: {number(sizes['qdq'])})")
