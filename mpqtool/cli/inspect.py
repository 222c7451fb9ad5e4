"""``mpqtool inspect``."""

from __future__ import annotations

__all__ = ["command"]

from typing import Any

import rich_click as click

from .common import echo_json, echo_table, json_option, number


@click.command("inspect", epilog="Example: mpqtool inspect digits.mpq/model.int.onnx")
@click.argument("file", type=click.Path())
@json_option
def command(file: str, as_json: bool) -> None:
    """Tell what the ONNX file FILE is made of: operators, bits per layer and kernel, MACs, BitOPs, bytes."""
    from mpqtool import api

    found = api.inspect(file)
    if as_json:
        echo_json(found)
    else:
        _show(found)


def _show(found: dict[str, Any]) -> None:
    layers = found["bits"]["layers"]
    if layers:
        echo_table(
            [
                (
                    row["name"],
                    row["op"],
                    number(row["macs"]),
                    number(row["weights"]),
                    _widths(row["weight_bits"]),
                    number(row["activation_bits"]),
                    number(row.get("accumulator_bits")),
                )
                for row in layers
            ],
            header=(
                "layer",
                "operator",
                "MACs",
                "weights",
                "kernels by width",
                "input bits",
                "accumulator bits",
            ),
        )
        click.echo()
    bits, cost, sizes, nodes = (found[key] for key in ("bits", "cost", "bytes", "nodes"))
    share = nodes["mac_share_integer"]
    rows = [
        ("kind", found["kind"]),
        ("weight bits (effective)", number(bits["weights_eff"])),
        ("activation bits (effective)", number(bits["activations_eff"])),
        ("MACs", number(cost["macs"])),
        ("BitOPs", number(cost["bitops"], digits=0)),
        ("C_C", number(cost["c_c"], digits=0)),
        ("WCR (32 / weight bits)", number(cost["wcr"])),
        *((f"bytes {name.replace('_', ' ')}", number(size)) for name, size in sizes.items()),
        ("nodes integer", number(nodes["integer"])),
        ("nodes float", number(nodes["float"])),
        ("MACs in integers", "-" if share is None else f"{share:.1%}"),
    ]
    echo_table(rows)
    click.echo("operators: " + ", ".join(f"{op} {count}" for op, count in found["operators"].items()))
    removed = sum(row.get("weights_removed", 0) for row in layers)
    if removed:
        click.echo(f"removed with kernels of 0 bits: {number(removed)} weights")
    risky = [row["name"] for row in layers if row.get("saturates_without_vnni")]
    if risky:
        click.echo(f"can saturate on CPUs without VNNI: {', '.join(risky)}")
    for island in nodes["islands"]:
        click.echo(f"float island: {island['op']} {island['name']!r}: {island['reason']}")


def _widths(weight_bits: dict[str, int]) -> str:
    """Write ``{"2": 12, "4": 4}`` as ``12 x 2, 4 x 4``: kernels times bits."""
    return ", ".join(f"{kernels} x {bits}" for bits, kernels in weight_bits.items()) or "-"
