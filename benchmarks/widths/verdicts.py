"""Whether what the AdaQAT paper says of its tables holds for the runs, and what finer widths are good for."""

from __future__ import annotations

__all__ = ["adaqat_relations"]

from collections.abc import Sequence
from itertools import pairwise
from statistics import fmean

from relations.page import Relation, noise

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
        _fewer_bits_on_every_seed(balanced),
        _fewer_bits(balanced),
        _less_accurate(balanced),
        _small_enough(bench.runs([fine])[fine]),
        _behind("weights and activations learned", *bench.runs([fine, scratch]).values()),
        _behind("activations at 8 bits", *bench.runs([fine8, scratch8]).values()),
        _activations_are_free(*bench.runs([fine8, fine]).values()),
        *(_cheaper(bench, *names) for names in (("layer", "network"), ("kernel", "layer"))),
        _all_settled([run for arm in ARMS for run in bench.runs([arm])[arm]]),
    ]


def _fewer_bits_on_every_seed(arms: list[list[Run]]) -> Relation:
    text = "the larger lambda, the smaller the product of bits, or it is the same: on every seed"
    if not all(arms):
        return Relation("Table III", text, "", None)
    seeds = [[run.product for run in runs] for runs in zip(*arms, strict=True)]
    numbers = "; ".join(", ".join(f"{product:.3g}" for product in products) for products in seeds)
    return Relation("Table III", text, numbers, all(map(_is_falling, seeds)))


def _fewer_bits(arms: list[list[Run]]) -> Relation:
    text = "the same of the means"
    if not all(arms):
        return Relation("Table III", text, "", None)
    means = [fmean(run.product for run in runs) for runs in arms]
    return Relation("Table III", text, ", ".join(f"{mean:.1f}" for mean in means), _is_falling(means))


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
    arms = {name: list(GRANULAR[name].values()) for name in (finer, coarser)}
    found = bench.runs([arm for each in arms.values() for arm in each])
    if not all(found.values()):
        return Relation("Granularity", text, "", None)
    shares = []
    for arm in arms[coarser]:
        least = fmean(_accuracies(found[arm])[0]) - _EQUAL
        cost, reference = (_cheapest([found[a] for a in arms[name]], least) for name in (finer, coarser))
        assert reference is not None  # the arm itself
        shares.append(None if cost is None else cost / reference)
    numbers = ", ".join("none as accurate" if share is None else f"{share:.2f} of them" for share in shares)
    return Relation("Granularity", text, numbers, all(share is not None and share < 1 for share in shares))


def _cheapest(arms: list[list[Run]], least: float) -> float | None:
    """Mean BitOPs of the cheapest arm that is accurate enough."""
    costs = [fmean(run.bitops for run in runs) for runs in arms if fmean(_accuracies(runs)[0]) >= least]
    return min(costs, default=None)


def _all_settled(runs: list[Run]) -> Relation:
    text = "every run: all widths were settled by a rule that is named"
    done = sum(run.is_settled for run in runs)
    numbers = f"{done} of {len(runs)} runs; widths: {reasons(runs)}"
    return Relation("all", text, numbers, done == len(runs) if runs else None)


def _accuracies(*arms: list[Run]) -> list[list[float]]:
    return [[run.integer for run in runs] for runs in arms]
