"""``mpqtool sensitivity``."""

from __future__ import annotations

__all__ = ["command"]

import pathlib
from typing import Any

import rich_click as click

from mpqtool.sensitivity_options import SUMS

from .common import counted, echo_json, echo_table, json_option, number, numbers, size

_SHOWN = 20  # groups that are listed
_FORMS = {
    "signs": "other answers, at most",
    "ranks": "other answers, at most",
    "runner-up": "the runner-up instead, at most",
}


@click.command(
    "sensitivity",
    epilog="Example: mpqtool sensitivity examples/digits.onnx --csv digits.csv --plot digits.svg",
)
@click.argument("model", type=click.Path())
@click.option(
    "--data", metavar="SPEC",
    help="Inputs: FILE.npz, idx:DIR, cifar10:DIR, an image folder, or package.module:callable; labels are "
    "not needed. none: made from the model alone.  [default: MODEL.npz beside MODEL.onnx, else none]",
)  # fmt: skip
@click.option(
    "--resize", type=size, metavar="HxW", help="Height and width for the pictures of an image folder."
)
@click.option("--mean", type=numbers, metavar="N,N,N", help="Subtract from pixels in 0 to 1.")
@click.option("--std", type=numbers, metavar="N,N,N", help="Divide pixels by this after that.")
@click.option(
    "--samples", default=512, show_default=True, type=click.IntRange(1),
    help="Inputs of the training split, drawn at random.",
)  # fmt: skip
@click.option(
    "--sums", default="signs", show_default=True, type=click.Choice(SUMS),
    help="How classes are summed over. signs: all at once, with two sets of random signs. ranks: exactly, "
    "one backward pass for the runner-up, one for the third, and so on. runner-up: that alone.",
)  # fmt: skip
@click.option(
    "--ranks", type=click.IntRange(1),
    help="Classes of --sums ranks, those with the smallest margins.  [default: all]",
)  # fmt: skip
@click.option(
    "--activation-bits", type=click.IntRange(2, 8),
    help="Quantize activations too, all at this width; graph inputs have 8 bits.  [default: float]",
)  # fmt: skip
@click.option(
    "--csv", type=click.Path(), metavar="FILE",
    help="Write all groups to FILE, and the uniform widths to STEM.uniform.csv beside it.",
)  # fmt: skip
@click.option("--plot", type=click.Path(), metavar="FILE.svg", help="Draw both as an SVG picture.")
@click.option("--seed", default=0, show_default=True, type=int, help="Seed of the samples and signs.")
@json_option
def command(model: str, as_json: bool, **options: Any) -> None:
    """Tell which kernels and activations of MODEL quantization hurts most; nothing is trained.

    Noise gains, of IMPQ, say how far noise in a kernel or an activation moves the class logits towards
    another answer. They also bound how many samples get another answer if all weights have the same bits; the
    share that really does is measured beside it.
    """
    from mpqtool import api
    from mpqtool.reporter import Reporter

    found = api.sensitivity(model, reporter=Reporter(), **options)
    for written in _written(options):
        click.echo(f"wrote {written}", err=True)
    if as_json:
        echo_json(found)
    else:
        _show(found)


def _written(options: dict[str, Any]) -> list[str]:
    from mpqtool.report.sensitivity import widths_file

    csv, plot = options["csv"], options["plot"]
    tables = [] if csv is None else [csv, str(widths_file(pathlib.Path(csv)))]
    return tables if plot is None else [*tables, plot]


def _show(found: dict[str, Any]) -> None:
    bits = found["activation_bits"]
    if found["form"] == "classes":
        echo_table(
            [(str(row["bits"]), _share(row["bound"]), _share(row["measured"])) for row in found["uniform"]],
            header=("bits of all weights", _FORMS[found["sums"]], "measured"),
        )
        beside = "activations in float" if bits is None else f"activations at {bits} bits"
        made = "" if found["data"] else "synthetic "
        click.echo(f"{counted(found['samples'], f'{made}sample')}, {beside}; nothing was trained")
        click.echo()
    groups = found["groups"]
    total = sum(row["sensitivity"] for row in groups) or 1.0
    echo_table(
        [
            (
                row["name"],
                "-" if row["kernel"] is None else str(row["kernel"]),
                number(row["weights"]) if row["weights"] else "-",
                f"{row['noise_gain']:.3g}",
                f"{row['sensitivity']:.3g}",
                f"{row['sensitivity'] / total:.1%}",
            )
            for row in groups[:_SHOWN]
        ],
        header=("group", "kernel", "weights", "noise gain", "sensitivity", "share"),
    )
    if len(groups) > _SHOWN:
        click.echo(f"and {counted(len(groups) - _SHOWN, 'group')} more: --csv FILE or --json gives all")
    click.echo(
        "sensitivity: noise gain times the square of the step at 8 bits, which is "
        + (
            "the group's part of the bound on other answers, had all groups 8 bits"
            if found["form"] == "classes"
            else "half the noise power in the outputs, in units of their mean square (no class logits)"
        )
        + "; share: of the sum over all groups"
    )


def _share(value: float | None) -> str:
    return "not measured" if value is None else f"{value:.3%}"
