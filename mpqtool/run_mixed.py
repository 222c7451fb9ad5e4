"""Plans with as few bits, or as few float tensors, as a floor under the accuracy allows."""

from __future__ import annotations

__all__ = ["descend", "repair"]

import collections
from collections.abc import Mapping, Sequence

from torch import Tensor, fx

from mpqtool.importer import import_graph
from mpqtool.passes.place import place
from mpqtool.passes.plan import Grid, Plan

from .errors import ModelError
from .job import Job
from .methods.descent import Point, first_that_holds, steps_down
from .methods.point_noise import measure_alone, point_noise
from .methods.ptq import samples_that_fit
from .quantizers.attach import attach, plain_activations
from .quantizers.calibrate import observe
from .trials import Trial, Trials

_SCORED, _SCORED_AT_ONCE = 64, 8
"""Samples that the noise of tensors is told from."""
_KEPT = 16
"""How many times as much a backward pass keeps as is alive at one time in a forward pass, about."""
_SUSPECTS = 16
"""Tensors with the most noise, by the estimate, that are measured one at a time."""
_NARROWEST, _WIDEST = 2, 8


def repair(trials: Trials, trial: Trial, chunks: list[tuple[Tensor, ...]]) -> Trial:
    """Leave tensors in float, those with the most noise first, until the floor holds.

    Raises:
        ModelError: All would have to be left.
    """
    job = trials.job
    job.reporter.say(f"accuracy: {trials.said(trial)}; looking for what quantization hurts most")
    suspects = _by_noise(job, trial, chunks)
    found = {0: trial}

    def reasons(count: int) -> dict[str, str]:
        return {name: f"alone it makes {share:.2%} of the outputs noise" for name, share in suspects[:count]}

    def holds(count: int) -> bool:
        if count not in found:
            found[count] = trials(trial.plan.without(reasons(count)))
        return trials.holds(found[count])

    count = 1
    while count < len(suspects) and not holds(count):
        count *= 2
    count = first_that_holds(count // 2 + 1, min(count, len(suspects)), holds)
    if not holds(count) or not _is_integer(found[count]):
        best = max(filter(_is_integer, found.values()), key=lambda tried: tried.held_out)
        raise ModelError(
            f"Cannot quantize {str(job.path)!r} and hold the floor: {trials.said(best)}, with "
            f"{len(best.finished.plan.left_float)} tensors left in float. Give more bits or calibration "
            "samples, other --ranges, more with --max-drop or --min-sqnr; or use a method that trains."
        )
    shown = ", ".join(name for name, _ in suspects[:count][:3]) + (", ..." if count > 3 else "")
    job.reporter.warn(
        f"{count} tensors stay float, {shown}: with all of them quantized it is {trials.said(trial)}"
    )
    return found[count]


def _is_integer(trial: Trial) -> bool:
    """Whether anything of a network is integer."""
    return bool(trial.finished.plan.weights and trial.finished.plan.activations)


def _by_noise(job: Job, trial: Trial, chunks: list[tuple[Tensor, ...]]) -> list[tuple[str, float]]:
    """Every quantized tensor and the noise that it makes alone, the worst first."""
    network = attach(import_graph(job.folded), trial.finished.plan).eval()
    small = _scored(network, chunks)
    widths = {entry.name: max(entry.bits) for entry in trial.plan.weights}
    widths |= {entry.name: entry.bits for entry in trial.plan.activations}
    estimated = _noise(job, trial, small, sorted(set(widths.values())))
    shares = {name: row[widths[name]] for name, row in estimated.items()}
    suspects = sorted(shares, key=lambda name: -shares[name])[:_SUSPECTS]
    shares |= measure_alone(network, small, suspects)
    return sorted(shares.items(), key=lambda item: -item[1])


def _scored(network: fx.GraphModule, chunks: list[tuple[Tensor, ...]]) -> list[tuple[Tensor, ...]]:
    """A few samples, in parts that a backward pass has the memory for."""
    at_once = min(_SCORED_AT_ONCE, max(1, samples_that_fit(network, chunks[0]) // _KEPT))
    parts = [part for chunk in chunks for part in zip(*(x.split(at_once) for x in chunk), strict=True)]
    return parts[: max(1, _SCORED // len(parts[0][0]))]


def _noise(
    job: Job, trial: Trial, small: list[tuple[Tensor, ...]], widths: list[int]
) -> dict[str, dict[int, float]]:
    network = attach(import_graph(job.folded), trial.finished.plan).eval()
    seen = observe(network, small, plain_activations(network))
    with job.reporter.progress(sum(len(part[0]) for part in small), "noise of each tensor") as progress:
        return point_noise(network, small, seen, widths, seed=job.options.seed, on_samples=progress.advance)


def descend(trials: Trials, trial: Trial, chunks: list[tuple[Tensor, ...]]) -> Trial:
    """Take bits from a uniform plan, the least noise for what is saved first.

    With limits, until they are met; without, as long as the floor holds.
    """
    widths = list(range(_NARROWEST, _WIDEST + 1))
    small = _scored(attach(import_graph(trials.job.folded), trial.plan), chunks)
    noise = _noise(trials.job, trial, small, widths)
    order = _asked_for(trials, trial.plan, steps_down(_movable(trials, trial.plan, noise)))
    found = {0: trial}

    def fails(count: int) -> bool:
        if count not in found:
            tried = found[count] = trials(_with_fewer(trial.plan, order[:count]))
            trials.job.reporter.say(
                f"W{tried.costs['weights']:.2f} A{tried.costs['activations']:.2f}  {trials.said(tried)}"
            )
        return not trials.holds(found[count])

    if trials.limits and (not fails(len(order)) or not trials.holds(trial)):
        return found[len(order)]
    last = len(order) if trials.limits else len(order) + 1
    failing = first_that_holds(1, last, fails)
    return found[len(order)] if trials.limits else found[failing - 1]


def _movable(trials: Trials, plan: Plan, noise: Mapping[str, Mapping[int, float]]) -> list[Point]:
    """What may lose bits, and what a bit costs: in BitOPs, or as a share of the size, or of all activations.

    The first and the last layer keep theirs, unless told otherwise, and so do inputs of the model and values
    that no layer multiplies. Values lose bits only where a limit asks for it.
    """
    job, limits = trials.job, trials.limits
    narrow = place(
        job.folded, weight_bits=_NARROWEST, activation_bits=_NARROWEST, grid=Grid.FULL,
        end_bits=None if job.options.all_layers else _WIDEST,
    )  # fmt: skip
    weights = {entry.name: "size" for entry in narrow.weights if max(entry.bits) == _NARROWEST}
    values = {entry.name: "activations" for entry in narrow.activations if entry.bits == _NARROWEST}
    if "bitops" not in limits and limits.get("activations", _WIDEST) >= _WIDEST:
        values = {}
    before, points = trials.costs(plan), []
    for name, unit in (weights | values).items():
        if name not in noise:  # it stays float
            continue
        unit = "bitops" if "bitops" in limits else unit
        after = trials.costs(_with_fewer(plan, [name]))
        points.append(Point(name, (before[unit] - after[unit]) / before[unit], _WIDEST, noise[name]))
    return points


def _asked_for(trials: Trials, plan: Plan, order: Sequence[str]) -> list[str]:
    """Those steps that come nearer to a limit which is not met yet; all, where there is none."""
    if not trials.limits:
        return list(order)
    values = {entry.name for entry in plan.activations}
    steps = list[str]()
    costs = trials.costs(plan)
    for name in order:
        lowered = ("activations", "bitops") if name in values else ("weights", "size", "bitops")
        if any(costs[limit] > trials.limits[limit] for limit in lowered if limit in trials.limits):
            steps.append(name)
            plan = _with_fewer(plan, [name])
            costs = trials.costs(plan)
    return steps


def _with_fewer(plan: Plan, steps: Sequence[str]) -> Plan:
    """The plan with a bit less for each occurrence of a name."""
    less = collections.Counter(steps)
    return plan.replaced(
        weights=[
            entry.model_copy(update={"bits": tuple(bits - less[entry.name] for bits in entry.bits)})
            for entry in plan.weights
        ],
        activations=[
            entry.model_copy(update={"bits": entry.bits - less[entry.name]}) for entry in plan.activations
        ],
    )
