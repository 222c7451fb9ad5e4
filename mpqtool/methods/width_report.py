"""What a search for widths says: a line of the log for each update, and how each width was settled."""

from __future__ import annotations

__all__ = ["columns", "log_settled", "picture", "say_ended"]

from collections import Counter
from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import Any

from mpqtool.reporter import Reporter

from .width_variables import Variable

_WORDS = {"weights": "weight", "activations": "activation"}


def picture(variables: Sequence[Variable]) -> dict[str, Any]:
    """Mean widths, relaxed and used, over weights and over activations, and the most oscillations of any."""
    row: dict[str, Any] = {}
    for kind, word in _WORDS.items():
        found = _of(kind, variables)
        if found:
            elements = [variable.elements for variable in found]
            row[kind] = fmean((variable.width.value for variable in found), elements)
            row[f"{word}_bits"] = _mean_bits(found)
            row[f"{word}_oscillations"] = max(variable.width.oscillations for variable in found)
    return row


def columns(row: Mapping[str, Any]) -> dict[str, object]:
    """What a progress bar shows of a picture with its loss."""
    counts = [row[f"{word}_oscillations"] for word in _WORDS.values() if f"{word}_oscillations" in row]
    return {
        "weights_eff": row["weight_bits"], "activations_eff": row.get("activation_bits"),
        "loss": row["loss"], "oscillations": "/".join(map(str, counts)),
    }  # fmt: skip


def log_settled(reporter: Reporter, step: int, variable: Variable) -> None:
    """Write down by which rule a width was settled."""
    reporter.event(
        "frozen", step=step, granularity=variable.granularity, variable=variable.name, kind=variable.kind,
        bits=variable.width.bits, reason=variable.width.reason,
    )  # fmt: skip


def say_ended(reporter: Reporter, step: int, variables: Sequence[Variable]) -> None:
    """Tell the widths at the end of the search, and the rules that settled them."""
    for kind in _WORDS:
        found = _of(kind, variables)
        if found:
            reasons = Counter(str(variable.width.reason) for variable in found)
            counts = ", ".join(f"{reason} {count}" for reason, count in reasons.most_common())
            why = counts if len(found) > 1 else found[0].width.reason
            own = f"{found[0].granularity}-wise"
            reporter.say(f"step {step}  {own}  {kind} at {_mean_bits(found):.2f} bits: {why}")


def _of(kind: str, variables: Sequence[Variable]) -> list[Variable]:
    return [variable for variable in variables if variable.kind == kind]


def _mean_bits(found: Sequence[Variable]) -> float:
    return fmean((variable.width.bits for variable in found), [variable.elements for variable in found])
