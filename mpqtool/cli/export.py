"""``mpqtool export``."""

from __future__ import annotations

__all__ = ["command"]

import ast
import re
from typing import Any

import rich_click as click

from .common import echo_json, json_option


def _input(text: str) -> tuple[str, tuple[int | None, ...]]:
    """Read ``x=Nx3x32x32``: a name and a shape, a letter for a free dimension."""
    name, _, shape = text.partition("=")
    if not name or re.fullmatch(r"([A-WYZ]|\d+)(x\d+)*", shape) is None:
        raise click.BadParameter(
            f"{text!r} is not NAME=SHAPE; write x=Nx3x32x32, N for any number of samples."
        )
    return name, tuple(int(size) if size.isdigit() else None for size in shape.split("x"))


def _argument(text: str) -> tuple[str, Any]:
    """Read ``classes=10``: a keyword argument, its value a Python literal or else text."""
    name, equals, value = text.partition("=")
    if not equals or not name.isidentifier():
        raise click.BadParameter(f"{text!r} is not NAME=VALUE; write classes=10.")
    try:
        return name, ast.literal_eval(value)
    except (ValueError, SyntaxError):
        return name, value


@click.command(
    "export",
    epilog="Example: mpqtool export mpqtool.zoo:resnet20 --arg in_channels=1 --input x=Nx1x28x28 "
    "--weights resnet20.safetensors -o resnet20.onnx",
)
@click.argument("factory", metavar="MODULE:FACTORY")
@click.option(
    "--out", "-o", required=True, type=click.Path(), metavar="MODEL.onnx", help="The float ONNX file."
)
@click.option(
    "--input", "inputs", multiple=True, type=_input, metavar="NAME=SHAPE",
    help="Name and shape of an input, once for each.  [default: x, from the first layer]",
)  # fmt: skip
@click.option(
    "--arg",
    "arguments",
    multiple=True,
    type=_argument,
    metavar="NAME=VALUE",
    help="A keyword argument of the factory, once for each.",
)
@click.option("--weights", type=click.Path(), metavar="FILE.safetensors", help="Parameters to load first.")
@json_option
def command(
    factory: str,
    out: str,
    inputs: tuple[tuple[str, tuple[int | None, ...]], ...],
    arguments: tuple[tuple[str, Any], ...],
    weights: str | None,
    as_json: bool,
) -> None:
    """Write the torch module that MODULE:FACTORY() returns as a float ONNX file.

    BatchNormalization is kept, as fine-tuning wants it, and initializers have the names of the parameters.
    """
    from mpqtool import api

    path = api.export_onnx(factory, out, inputs=dict(inputs), arguments=dict(arguments), weights=weights)
    if as_json:
        echo_json({"path": str(path), "bytes": path.stat().st_size})
    else:
        click.echo(str(path))
