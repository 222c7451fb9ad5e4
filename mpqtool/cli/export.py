"""``mpqtool export``."""

from __future__ import annotations

__all__ = ["command"]

import contextlib
import logging
import sys
from collections.abc import Iterator

import rich_click as click

from .common import echo_json, json_option


@click.command(
    "export",
    epilog="Example: mpqtool export mpqtool.zoo:resnet20 --arg in_channels=1 --input-shape 1,28,28 "
    "--weights resnet20.safetensors -o resnet20.onnx",
)
@click.argument("model", metavar="MODULE:FACTORY")
@click.option(
    "--out", "-o", required=True, type=click.Path(), metavar="MODEL.onnx", help="The float ONNX file."
)
@click.option(
    "--input-shape", metavar="N,N,N",
    help="Shape of one sample, without the batch.  [default: the network's attribute input_shape]",
)  # fmt: skip
@click.option(
    "--weights", type=click.Path(), metavar="FILE",
    help="State dictionary to load first: .safetensors, or by torch.save.  [default: as the factory made it]",
)  # fmt: skip
@click.option(
    "--arg", multiple=True, metavar="NAME=VALUE",
    help="A keyword argument of the factory, once for each: a Python literal, true, false, none, or text.",
)  # fmt: skip
@click.option(
    "--seed", default=0, show_default=True, type=int, help="Seed of weights that the factory draws."
)
@json_option
def command(
    model: str,
    out: str,
    input_shape: str | None,
    weights: str | None,
    arg: tuple[str, ...],
    seed: int,
    as_json: bool,
) -> None:
    """Write the torch network that MODULE:FACTORY() returns as a float ONNX file for any number of samples.

    BatchNormalization is kept, as fine-tuning wants it. Initializers have the names of the parameters; those
    for which that cannot be are named in a warning. The input is float32.

    Networks to try are in mpqtool.zoo, all with --arg in_channels and classes; beside these:

    \b
    resnet20
    vgg_small           width size
    mobilenet_v1        width small
    mobilenet_v3_small  width small
    resnet18            width small
    efficientnet_b0     width depth small
    transformer         size patch width depth heads
    """  # noqa: D301 - \b is for click: it keeps the lines
    from mpqtool import api

    with contextlib.redirect_stdout(sys.stderr), _warnings():  # a user's module may print
        path = api.export_onnx(model, out, input_shape=input_shape, weights=weights, arg=arg, seed=seed)
    if as_json:
        echo_json({"path": str(path), "bytes": path.stat().st_size})
    else:
        click.echo(str(path))


@contextlib.contextmanager
def _warnings() -> Iterator[None]:
    """Show what our loggers warn of, a line each, as the other commands do."""
    logger, handler = logging.getLogger("mpqtool"), logging.StreamHandler(sys.stderr)
    handler.setLevel(logging.WARNING)
    handler.setFormatter(logging.Formatter("warning: %(message)s"))
    logger.addHandler(handler)
    try:
        yield
    finally:
        logger.removeHandler(handler)
