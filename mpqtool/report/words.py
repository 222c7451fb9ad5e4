"""Numbers and sentences as the page shows them."""

from __future__ import annotations

__all__ = [
    "METHODS",
    "METRICS",
    "Verdict",
    "drop",
    "held_out",
    "metric",
    "number",
    "settings",
    "short",
    "signed",
    "size",
    "verdict",
]

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

from mpqtool.result import ResultFile

METHODS = {"impq": "IMPQ", "lsq": "LSQ", "lsq+": "LSQ+", "adaqat": "AdaQAT", "fat": "FAT"}
METRICS = {"top1": "Top-1 accuracy", "agreement": "Agreement with float", "sqnr_db": "SQNR"}
UNITS = {"top1": " %", "agreement": " %", "sqnr_db": " dB"}
NOT_MEASURED = "not measured"
_UNITS = ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k"))


def number(value: float | None, unit: str = "", digits: int = 2) -> str:
    """Write a number with thousands separated; whole numbers have no decimals."""
    if value is None:
        return NOT_MEASURED
    return (f"{value:,}" if isinstance(value, int) else f"{value:,.{digits}f}") + unit


def short(value: float | None, unit: str = "") -> str:
    """Write a large number with a decimal prefix: ``40.8 M``."""
    if value is None:
        return NOT_MEASURED
    for factor, prefix in _UNITS:
        if abs(value) >= factor:
            scaled = value / factor
            decimals = max(0, 2 - math.floor(math.log10(abs(scaled))))
            return f"{scaled:,.{decimals}f} {prefix}{unit}"
    return f"{value:,.0f}{' ' + unit if unit else ''}"


def signed(value: float) -> str:
    """Write a real number in three digits, with a true minus sign and no -0."""
    return f"{value + 0.0:.3g}".replace("-", "\N{MINUS SIGN}")


def size(count: float | None) -> str:
    """Write a number of bytes: ``24.8 kB``."""
    return short(count, "B")


def settings(options: Mapping[str, Any]) -> dict[str, str]:
    """Write the options by name, without those that nothing was given for."""
    return {name: _setting(value) for name, value in options.items() if value is not None}


def _setting(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return ", ".join(map(str, value)) if isinstance(value, (list, tuple)) else str(value)


@dataclasses.dataclass(frozen=True)
class Verdict:
    """The sentence at the top: ``state`` is good, bad or unknown."""

    state: str
    title: str
    text: str


def verdict(result: ResultFile) -> Verdict:
    """Say what verification found."""
    v = result.verify
    if v.passed is None:
        return Verdict("unknown", "Not verified", "This run compared no integers.")
    counts = ""
    if v.codes_different is not None and v.codes_compared is not None:
        counts = f" {v.codes_different:,} of {v.codes_compared:,} codes differ."
    if v.passed:
        return Verdict(
            "good", "Verified",
            f"The torch simulation, the numpy reference and ONNX Runtime gave the same integers.{counts}",
        )  # fmt: skip
    return Verdict("bad", "Verification did not pass", f"The engines gave different integers.{counts}")


def metric(result: ResultFile) -> tuple[str, str]:
    """Name what the forms of the model are compared by, and its unit with a space in front."""
    name = result.metric.name or ""
    if result.data.mode == "data-free":
        return "Accuracy", ""
    return METRICS.get(name, name or "Metric"), UNITS.get(name, "")


def held_out(result: ResultFile) -> str:
    """Name what the run decided by."""
    if result.data.mode == "data-free":
        return "likeness to the float model on synthetic inputs, which is no accuracy"
    name, unit = metric(result)
    return f"{name} on held-out data{unit and f',{unit}'}"


def drop(result: ResultFile) -> str:
    """Say how the integer file compares with the float file."""
    found = result.metric
    if found.float is None or found.integer is None:
        return ""
    if found.name == "sqnr_db":
        return "power of the float outputs against what became other, worst output"
    change = found.integer - found.float
    unit = UNITS.get(found.name or "", "").replace("%", "points")
    return f"{change:+.2f}{unit} against float ({found.float:.2f})".replace("-", "\N{MINUS SIGN}", 1)
