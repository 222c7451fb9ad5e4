"""What ``mpqtool quantize`` prints of a run that is done."""

from __future__ import annotations

__all__ = ["echo_summary"]

from typing import Any

import rich_click as click

from .common import echo_table, number


def echo_summary(path: str, result: dict[str, Any]) -> None:
    """Print accuracy, bits, bytes and islands of a run as a table, and then where its files are."""
    metric, bits, sizes, verified = (result[key] for key in ("metric", "bits", "bytes", "verify"))
    share = result["nodes"]["mac_share_integer"]
    unit = {"top1": " %", "agreement": " %", "sqnr_db": " dB"}.get(metric["name"], "")
    forms = ("float", "fake_quant", "qdq", "integer")
    rows = [(f"{metric['name']} {form.replace('_', '-')}", number(metric[form], unit)) for form in forms]
    if result["data"]["mode"] == "data-free":
        rows = [("accuracy", "not measured: no data")]
    quantized = _quantized_bits(bits["layers"])
    rows += [
        ("weight bits (all layers)", number(bits["weights_eff"])),
        ("weight bits (of what is quantized and left)", number(quantized)),
        ("activation bits", number(bits["activations_eff"])),
        ("bytes float", number(sizes["float"])),
        ("bytes integer", number(sizes["integer"])),
        ("seconds", number(result["time_s"]["total"], digits=1)),
        ("MACs in integers", "-" if share is None else f"{share:.1%}"),
        ("verified", "yes" if verified["passed"] else "no"),
        ("float islands", number(len(result["nodes"]["islands"]))),
    ]
    rows += [
        (f"  {island['op']} {island['name']}", island["reason"]) for island in result["nodes"]["islands"]
    ]
    echo_table(rows)
    click.echo(path)


def _quantized_bits(layers: list[dict[str, Any]]) -> float | None:
    """Mean bits of the weights that are not float, and were not removed."""
    total, count = 0.0, 0
    for row in layers:
        kernels = sum(row["weight_bits"].values())
        if list(row["weight_bits"]) != ["32"] and kernels:
            mean = sum(float(bits) * number for bits, number in row["weight_bits"].items()) / kernels
            total, count = total + mean * row["weights"], count + row["weights"]
    return total / count if count else None
