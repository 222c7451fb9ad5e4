"""Whether what the IMPQ paper says of its tables holds for the runs."""

from __future__ import annotations

__all__ = ["impq_relations"]

import math
from collections.abc import Iterator

from common.page import Relation

from .arms import BASELINE, BOTH, NETWORKS, UNIFORM, searched
from .runs import Bench, Run

_RESNET = "ResNet-20"
_EQUAL = 0.3
"""Points of accuracy that count as none: twice what two runs of the same widths differ by."""


def impq_relations(bench: Bench) -> list[Relation]:
    """What tables 1 and 2 and figure 4 say, held against the runs."""
    return [*_weights_alone(bench), *_granularity(bench), *_both(bench)]


def _weights_alone(bench: Bench) -> Iterator[Relation]:
    for network in NETWORKS:
        kernel = bench.find(network, searched(network)["kernel"])
        for bits, arm in UNIFORM.items():
            text = (
                f"{network}: fewer bits kernel by kernel than LSQ at {bits} (8 at both ends), as accurate on "
                f"held-out images, within {_EQUAL} points"
            )
            uniform = bench.find(network, arm)
            if kernel is None or uniform is None:
                yield Relation("Table 1", text, "", None)
                continue
            fewest = _fewest(kernel, at_least=uniform.held_out - _EQUAL)
            if fewest is None:
                yield Relation("Table 1", text, f"none of {uniform.held_out:.2f} %", holds=False)
            else:
                numbers = (
                    f"{fewest:.2f} against {uniform.weights:.2f}, {1 - fewest / uniform.weights:.0%} less"
                )
                yield Relation("Table 1", text, numbers, fewest < uniform.weights)
    text = f"{_RESNET}: at most 2.0 bits, at most 0.5 points below float"
    yield _reached("Table 1", text, bench.find(_RESNET, searched(_RESNET)["kernel"]), weights=2.0, drop=0.5)


def _fewest(run: Run, *, at_least: float) -> float | None:
    """The fewest effective bits of an iteration that is so accurate on held-out images."""
    return min((point.bits for point in run.points if point.accuracy >= at_least), default=None)


def _granularity(bench: Bench) -> Iterator[Relation]:
    """Compare how far the searches came, and the fewest bits at the accuracy of every network-wise width."""
    for network in NETWORKS:
        far = (
            f"{network}: compression against {BASELINE} bits that the loss allowed leaves: kernel-wise at "
            "least layer-wise, that at least network-wise"
        )
        equal = (
            f"{network}: fewest bits as accurate on held-out images, within {_EQUAL} points, as each "
            "network-wise width: kernel-wise at most layer-wise, that at most network-wise"
        )
        found = [bench.find(network, arm) for arm in reversed(searched(network).values())]
        runs = [run for run in found if run is not None]
        if len(runs) < len(found):
            yield Relation("Figure 4", far, "", None)
            yield Relation("Figure 4", equal, "", None)
            continue
        ratios = [BASELINE / run.weights for run in runs]
        each = zip(ratios, runs, strict=True)
        numbers = ", ".join(f"{ratio:.2f} ({run.to_float:+.2f})" for ratio, run in each)
        yield Relation("Figure 4", far, numbers, ratios == sorted(ratios, reverse=True))
        told, holds = [], True
        for point in runs[-1].points:
            fewest = [_fewest(run, at_least=point.accuracy - _EQUAL) for run in runs]
            told.append(", ".join("none" if bits is None else f"{bits:.2f}" for bits in fewest))
            known = [math.inf if bits is None else bits for bits in fewest]
            holds &= known == sorted(known)
        yield Relation("Figure 4", equal, "; ".join(told), holds)


def _both(bench: Bench) -> Iterator[Relation]:
    for network in NETWORKS:
        searched, uniform = (bench.find(network, arm) for arm in BOTH)
        text = f"{network}: kernel-wise as accurate as {BOTH[1].name}, at no higher cost C_C"
        if searched is None or uniform is None:
            yield Relation("Table 2", text, "", None)
            continue
        numbers = (
            f"{searched.integer:.2f} at {searched.cost:.3f} G, {uniform.integer:.2f} at {uniform.cost:.3f} G"
        )
        yield Relation(
            "Table 2", text, numbers, searched.integer >= uniform.integer and searched.cost <= uniform.cost
        )
    text = f"{_RESNET}: at most 2.5 and 4 bits, at most 1.0 point below float"
    yield _reached("Table 2", text, bench.find(_RESNET, BOTH[0]), weights=2.5, activations=4.0, drop=1.0)


def _reached(
    table: str, text: str, run: Run | None, *, weights: float, drop: float, activations: float = 8.0
) -> Relation:
    if run is None:
        return Relation(table, text, "", None)
    numbers = f"W{run.weights:.2f} A{run.activations:.2f}, {run.to_float:+.2f}"
    holds = run.weights <= weights and run.activations <= activations and run.to_float >= -drop
    return Relation(table, text, numbers, holds)
