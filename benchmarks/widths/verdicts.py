"""Whether what the AdaQAT paper says of its tables holds for the runs, and what finer widths are good for."""

from __future__ import annotations

__all__ = ["adaqat_relations"]

from collections.abc import Sequence
from itertools import pairwise
from statistics import fmean

from common.page import Relation, noise

from .arms import Arm
from .runs import Bench, Run
from .tables import ARMS, BALANCED, GRANULAR, LEARNED, reasons

_EQUAL = 0.3
"""Points of accuracy that count as none, between granularities."""
_BEHIND = 0.3
"""Points that training from scratch is behind fine-tuning in the paper, at most (3/8 bits)."""
_PRODUCT, _DROP = 16, 1.0
"""What lambda 0.15 is to reach: product of bits, and points below float."""


def adaqat_relations(bench: Bench) -> list[Relation]:
    """What the tables of the paper say, held against the runs."""
    balanced = list(bench.runs(BALANCED.values()).values())
    fine, scratch = LEARNED["fine-tuning"], LEARNED["from scratch"]
    fine8, scratch8 = (LEARNED[f"{name}, activations at 8 bits"] for name in ("fine-tuning", "from scratch"))
    return [
        _fewer_bits(balanced),
        _less_accurate(balanced),
        _small_enough(bench.runs([fine])[fine]),
        _behind("weights and activations learned", *bench.runs([fine, scratch]).values()),
        _behind("activations at 8 bits", *bench.runs([fine8, scratch8]).values()),
        _activations_are_free(*bench.runs([fine8, fine]).values()),
        *(_cheaper(bench, *names) for names in (("layer", "network"), ("kernel", "layer"))),
        _all_settled([run for arm in ARMS for run in bench.runs([arm])[arm]]),
    ]


def _fewer_bits(arms: list[list[Run]]) -> Relation:
    text = "the larger lambda, the smaller the product of bits, or it is the same: on every seed"
    if not all(arms):
        return Relation("Table III", text, "", None)
    seeds = [[run.product for run in runs] for runs in zip(*arms, strict=True)]
    numbers = "; ".join(", ".join(f"{product:.3g}" for product in products) for products in seeds)
    return Relation("Table III", text, numbers, all(map(_is_falling, seeds)))


def _is_falling(values: Sequence[float]) -> bool:
    # Averages over multiply-accumulates: equal ones may differ in the last bits of a float.
    return all(b <= a * (1 + 1e-9) for a, b in pairwise(values))


def _less_accurate(arms: list[list[Run]]) -> Relation:
    text = "the larger lambda, the lower the mean accuracy, or it rises by no more than noise"
    accuracies = _accuracies(*arms)
    if min(map(len, accuracies)) < 2:
        return Relation("Table III", text, "", None)
    means, most = [fmean(found) for found in accuracies], noise(accuracies)
    rise = max(max(means[i:]) - mean for i, mean in enumerate(means))  # above any smaller lambda
    numbers = f"{', '.join(f'{mean:.2f}' for mean in means)}: rises by {rise:.2f}, noise {most:.2f}"
    return Relation("Table III", text, numbers, rise <= most)


def _small_enough(runs: list[Run]) -> Relation:
    text = (
        f"lambda 0.15: product of bits at most {_PRODUCT}, at most {_DROP:g} point below float, on every seed"
    )
    numbers = ", ".join(f"{run.product:.3g} ({run.to_float:+.2f})" for run in runs)
    holds = all(run.product <= _PRODUCT and run.to_float >= -_DROP for run in runs) if runs else None
    return Relation("Table III", text, numbers, holds)


def _behind(what: str, tuned: list[Run], scratch: list[Run]) -> Relation:
    text = f"{what}: from scratch no more than {_BEHIND} points, or noise, below fine-tuning"
    accuracies = _accuracies(scratch, tuned)
    if min(map(len, accuracies)) < 2:
        return Relation("Table I", text, "", None)
    difference, most = fmean(accuracies[0]) - fmean(accuracies[1]), noise(accuracies)
    return Relation(
        "Table I", text, f"{difference:+.2f}, noise {most:.2f}", difference >= -max(_BEHIND, most)
    )


def _activations_are_free(eight: list[Run], learned: list[Run]) -> Relation:
    text = "learned activations cost no accuracy beyond noise, against 8 bits, for fewer BitOPs"
    accuracies = _accuracies(eight, learned)
    if min(map(len, accuracies)) < 2:
        return Relation("Table I", text, "", None)
    difference, most = fmean(accuracies[1]) - fmean(accuracies[0]), noise(accuracies)
    share = fmean(run.bitops for run in learned) / fmean(run.bitops for run in eight)
    numbers = f"{difference:+.2f}, noise {most:.2f}; {share:.2f} of the BitOPs"
    return Relation("Table I", text, numbers, difference >= -most and share < 1)


def _cheaper(bench: Bench, finer: str, coarser: str) -> Relation:
    """Compare the cheapest arms of both that are as accurate, at the accuracy of each coarser arm.

    Both may be less accurate by what counts as equal: neither gains by that.
    """
    text = (
        f"{finer}-wise needs fewer BitOPs than {coarser}-wise at equal accuracy (within {_EQUAL} points): "
        f"the cheapest arms, at the accuracy of each {coarser}-wise lambda"
    )
    found = bench.runs([arm for name in (finer, coarser) for arm in GRANULAR[name].values()])
    if not all(found.values()):
        return Relation("Granularity", text, "", None)
    costs = {arm: fmean(run.bitops for run in runs) for arm, runs in found.items()}
    accuracies = {arm: fmean(run.integer for run in runs) for arm, runs in found.items()}

    def cheapest(name: str, least: float) -> Arm | None:
        enough = [arm for arm in GRANULAR[name].values() if accuracies[arm] >= least]
        return min(enough, key=lambda arm: costs[arm], default=None)

    told: dict[str, bool] = {}  # one comparison may serve the accuracy of several arms
    for arm in GRANULAR[coarser].values():
        least = accuracies[arm] - _EQUAL
        fine, reference = cheapest(finer, least), cheapest(coarser, least) or arm
        if fine is None:
            told[f"none as accurate as {coarser} {arm.lambda_:g}"] = False
        else:
            share = costs[fine] / costs[reference]
            told[f"{finer} {fine.lambda_:g} / {coarser} {reference.lambda_:g}: {share:.2f}"] = share < 1
    return Relation("Granularity", text, ", ".join(told), all(told.values()))


def _all_settled(runs: list[Run]) -> Relation:
    text = "every run: all widths, of weights and activations, were settled by a rule that is named"
    done = sum(run.is_settled for run in runs)
    numbers = f"{done} of {len(runs)} runs; widths: {reasons(runs)}"
    return Relation("all", text, numbers, done == len(runs) if runs else None)


def _accuracies(*arms: list[Run]) -> list[list[float]]:
    return [[run.integer for run in runs] for runs in arms]
