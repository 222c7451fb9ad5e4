"""Tables of finished runs: those of the IMPQ paper."""

from __future__ import annotations

__all__ = ["impq_tables"]

from collections.abc import Mapping

from common.page import table

from .arms import BOTH, NETWORKS, UNIFORM, Arm, searched
from .runs import Bench, Run

_HEAD = ("", "W", "A", "C_C (G)", "integer file", "to float", "held-out", "weights, bytes", "file, bytes")


def impq_tables(bench: Bench) -> str:
    """Tables 1 and 2 of the paper, for every network."""
    parts = []
    for network in NETWORKS:
        weights_only = [*reversed(searched(network).values()), *UNIFORM.values()]
        for title, arms in (
            ("Table 1: weights alone, activations at 8 bits", weights_only),
            ("Table 2: weights and activations", BOTH),
        ):
            rows = _rows({arm: bench.find(network, arm) for arm in arms})
            if rows:
                parts += [f"{title}, {network}", table(_HEAD, rows)]
    return "\n\n".join(parts)


def _rows(runs: Mapping[Arm, Run | None]) -> list[list[str]]:
    made = {arm: run for arm, run in runs.items() if run is not None}
    rows = [[arm.name, *_cells(run)] for arm, run in made.items()]
    return [_float(next(iter(made.values()))), *rows] if made else rows


def _float(run: Run) -> list[str]:
    accuracy = f"{run.integer - run.to_float:.2f}"
    return ["float", "32", "32", "-", accuracy, "-", "-", "-", f"{run.bytes_float:,}"]


def _cells(run: Run) -> list[str]:
    return [
        f"{run.weights:.2f}", f"{run.activations:.2f}", f"{run.cost:.3f}", f"{run.integer:.2f}",
        f"{run.to_float:+.2f}", f"{run.held_out:.2f}", f"{run.bytes_weights:,}", f"{run.bytes_integer:,}",
    ]  # fmt: skip
