"""Tables of finished runs: those of the AdaQAT paper, and a comparison of granularities."""

from __future__ import annotations

__all__ = ["ARMS", "GRANULAR", "LAMBDAS", "LEARNED", "adaqat_tables"]

from collections import Counter
from collections.abc import Mapping, Sequence

from common.page import cell, table

from .arms import Arm
from .runs import REASONS, Bench, Run

LAMBDAS = (0.05, 0.1, 0.15, 0.2, 0.4)
BALANCED = {value: Arm(lambda_=value) for value in LAMBDAS}
LEARNED = {
    "fine-tuning, activations at 8 bits": Arm(hardware="size"),
    "fine-tuning": Arm(),
    "from scratch, activations at 8 bits": Arm(hardware="size", from_scratch=True),
    "from scratch": Arm(from_scratch=True),
}
GRANULAR = {
    name: {value: Arm(granularity=name, lambda_=value) for value in (0.05, 0.1, 0.15)}
    for name in ("network", "layer", "kernel")
}
ARMS = tuple(
    dict.fromkeys(
        [*BALANCED.values(), *LEARNED.values(), *(arm for arms in GRANULAR.values() for arm in arms.values())]
    )
)
"""Every arm once: what two tables share is run once."""

_HEAD = (
    "W", "A", "product of bits", "BitOPs (G)", "WCR", "integer file", "to float", "fake-quant",
    "weights settled by", "activations settled by",
)  # fmt: skip


def adaqat_tables(bench: Bench) -> str:
    """Tables III and I of the paper, and one by granularity."""
    balanced = _rows(bench, {f"{value:g}": arm for value, arm in BALANCED.items()})
    granular = {f"{name}, {value:g}": arm for name, arms in GRANULAR.items() for value, arm in arms.items()}
    return "\n\n".join(
        [
            "Table III: fine-tuning, one width of the weights and one of the activations",
            table(["lambda", *_HEAD], balanced),
            "Table I: fine-tuning and from scratch, lambda 0.15",
            table(["", *_HEAD], [*_baseline(bench), *_rows(bench, LEARNED)]),
            "Granularity of the widths, fine-tuning",
            table(["granularity, lambda", *_HEAD], _rows(bench, granular)),
        ]
    )


def _baseline(bench: Bench) -> list[list[str]]:
    """The float network, as the runs measured it."""
    run = next((run for runs in bench.runs(ARMS).values() for run in runs), None)
    if run is None:
        return []
    return [
        ["float", "32", "32", "1024", f"{run.float_bitops:.3f}", "-", f"{run.float_accuracy:.2f}", *["-"] * 4]
    ]


def _rows(bench: Bench, arms: Mapping[str, Arm]) -> list[list[str]]:
    found = bench.runs(arms.values())
    return [[name, *_cells(found[arm])] for name, arm in arms.items()]


def _cells(runs: Sequence[Run]) -> list[str]:
    digits = {"weights": 2, "activations": 2, "product": 1, "bitops": 3, "wcr": 1}
    digits |= {"integer": 2, "to_float": 2, "fake_quant": 2}
    numbers = [cell([getattr(run, key) for run in runs], n) for key, n in digits.items()]
    return [*numbers, *(reasons(runs, kind) or "-" for kind in ("weights", "activations"))]


def reasons(runs: Sequence[Run], kind: str | None = None) -> str:
    """How many widths each rule settled, in all runs; ``kind``: of weights or activations alone."""
    counts: Counter[str] = Counter()
    for run in runs:
        for (found, reason), number in run.reasons.items():
            if kind in (None, found):
                counts[reason] += number
    order = sorted(counts, key=lambda name: REASONS.index(name) if name in REASONS else len(REASONS))
    return ", ".join(f"{name} {counts[name]:,}" for name in order)
