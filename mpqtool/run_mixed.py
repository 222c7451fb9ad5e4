"""Plans with as few bits, or as few float tensors, as a floor under the accuracy allows."""

from __future__ import annotations

__all__ = ["descend", "repair"]

import collections
import math
from collections.abc import Collection, Mapping, Sequence

from torch import Tensor, fx

from mpqtool.importer import import_graph
from mpqtool.passes.place import place
from mpqtool.passes.plan import Grid, Plan
from mpqtool.passes.planned_cost import layer_tensors

from .errors import ModelError
from .job import Job
from .methods.descent import Point, first_that_holds, steps_down
from .methods.gradients import few_samples
from .methods.point_noise import measure_alone, point_noise
from .plan_maker import PlanMaker
from .quantizers.attach import attach, plain_activations
from .quantizers.calibrate import observe
from .quantizers.ranges import OF_HISTOGRAM
from .trials import Trial, Trials

_SUSPECTS = 16
"""Tensors with the most noise, by the estimate, that are measured one at a time."""
_COST_OF_FLOAT = 0.05
"""What a tensor in float costs beside its layer, for the conversions: as a share of the integer network."""
_PUT_BACK, _DEAR = 8, 0.02
"""Layers, at most, that are tried in integers again; and the share of all cost that is worth a trial."""
_NARROWEST, _WIDEST = 2, 8


def repair(trials: Trials, trial: Trial, maker: PlanMaker) -> Trial:
    """Leave tensors in float, those with the most noise for what float costs first; layers may come back.

    Raises:
        ModelError: All would have to be left.
    """
    job = trials.job
    job.reporter.say(f"accuracy: {trials.said(trial)}; looking for what quantization hurts most")
    suspects = _by_noise(trials, trial, maker)
    answers, failed, held = dict[int, bool](), trial, None

    def holds(count: int) -> bool:
        nonlocal failed, held
        if count not in answers:
            left = {
                name: f"alone it makes {share:.2%} of the outputs noise" for name, share in suspects[:count]
            }
            tried = trials(trial.plan.without(left))
            answers[count] = trials.holds(tried)
            if answers[count]:
                held = tried  # numbers that hold come down
            elif _is_integer(tried) and tried.held_out > failed.held_out:
                failed = tried
        return answers[count]

    count = 1
    while count < len(suspects) and not holds(count):
        count *= 2
    holds(first_that_holds(count // 2 + 1, min(count, len(suspects)), holds))
    if held is None or not _is_integer(held):
        raise ModelError(
            f"Cannot quantize {str(job.path)!r} and hold the floor: {trials.said(failed)}, with "
            f"{len(failed.finished.plan.left_float)} tensors left in float. Give more bits or calibration "
            "samples, other --ranges, more with --max-drop or --min-sqnr; or use a method that trains."
        )
    too_few = {frozenset(name for name, _ in suspects[:n]) for n, enough in answers.items() if not enough}
    held = _put_back(trials, trial.plan, held, {frozenset(), *too_few})
    left = [name for name, _ in suspects if name in held.plan.left_float]
    shown = ", ".join(left[:3]) + (", ..." if len(left) > 3 else "")
    job.reporter.warn(
        f"{len(left)} tensors stay float, {shown}: with all of them quantized it is {trials.said(trial)}"
    )
    return held


def _put_back(trials: Trials, plan: Plan, held: Trial, too_few: Collection[frozenset[str]]) -> Trial:
    """Quantize layers again that are dear in float, the dearest first, where the floor holds without them.

    Noise of one tensor alone does not tell which ones make up for each other: a layer may have gone that had
    no need to.

    Args:
        trials: Tries plans.
        plan: With all tensors quantized.
        held: What holds the floor.
        too_few: Tensors that were not enough to leave.
    """
    layers = {frozenset(tensors) for tensors in layer_tensors(trials.job.folded, plan)}
    for _ in range(_PUT_BACK):
        left, (unit, before) = held.plan.left_float, _unit_and_cost(trials, held.plan)
        less = {
            layer: plan.without({name: why for name, why in left.items() if name not in layer})
            for layer in layers
            if not layer.isdisjoint(left) and left.keys() - layer not in too_few
        }
        saved = {layer: before - trials.costs(fewer)[unit] for layer, fewer in less.items()}
        dearest = max(sorted(saved, key=sorted), key=lambda layer: saved[layer], default=None)
        if dearest is None or saved[dearest] < _DEAR * before:
            break
        layers.remove(dearest)
        tried = trials(less[dearest])
        if trials.holds(tried):
            held = tried
    return held


def _unit_and_cost(trials: Trials, plan: Plan) -> tuple[str, float]:
    """What a plan costs, in BitOPs if they are known, else in bytes."""
    costs = trials.costs(plan)
    unit = "size" if math.isinf(costs["bitops"]) else "bitops"
    return unit, costs[unit]


def _is_integer(trial: Trial) -> bool:
    """Whether anything of a network is integer."""
    return bool(trial.finished.plan.weights and trial.finished.plan.activations)


def _by_noise(trials: Trials, trial: Trial, maker: PlanMaker) -> list[tuple[str, float]]:
    """Every quantized tensor and the noise that it makes alone, the most for what float costs first."""
    job = trials.job
    network = attach(import_graph(job.folded), trial.finished.plan).eval()
    small = few_samples(network, maker.chunks)
    widths = {entry.name: max(entry.bits) for entry in trial.plan.weights}
    widths |= {entry.name: entry.bits for entry in trial.plan.activations}
    estimated = _noise(maker, job, network, small, sorted(set(widths.values())))
    shares = {name: row[widths[name]] for name, row in estimated.items()}
    suspects = sorted(shares, key=lambda name: -shares[name])[:_SUSPECTS]
    shares |= measure_alone(network, small, suspects)
    unit, before = _unit_and_cost(trials, trial.plan)
    costs = {name: trials.costs(trial.plan.without({name: ""}))[unit] / before - 1 for name in shares}
    return sorted(shares.items(), key=lambda item: -item[1] / (costs[item[0]] + _COST_OF_FLOAT))


def _noise(
    maker: PlanMaker, job: Job, network: fx.GraphModule, small: list[tuple[Tensor, ...]], widths: list[int]
) -> dict[str, dict[int, float]]:
    values = plain_activations(network)
    seen = observe(network, small, values, histogram=maker.ranges in OF_HISTOGRAM)
    ranges = {q.name: {bits: maker.range_of(q, seen[q.name], bits) for bits in widths} for q in values}
    with job.reporter.progress(sum(len(part[0]) for part in small), "noise of each tensor") as progress:
        return point_noise(network, small, ranges, widths, seed=job.options.seed, on_samples=progress.advance)


def descend(trials: Trials, trial: Trial, maker: PlanMaker) -> Trial:
    """Take bits from a uniform plan, the least noise for what is saved first.

    With limits, until they are met; without, as long as the floor holds.
    """
    widths = list(range(_NARROWEST, _WIDEST + 1))
    network = attach(import_graph(trials.job.folded), trial.finished.plan).eval()
    noise = _noise(maker, trials.job, network, few_samples(network, maker.chunks), widths)
    order = _asked_for(trials, trial.plan, steps_down(_movable(trials, trial.plan, noise)))
    answers, held = {0: trials.holds(trial)}, trial

    def tried(count: int) -> Trial:
        found = trials(_with_fewer(trial.plan, order[:count]))
        trials.job.reporter.say(
            f"W{found.costs['weights']:.2f} A{found.costs['activations']:.2f}  {trials.said(found)}"
        )
        answers[count] = trials.holds(found)
        return found

    def fails(count: int) -> bool:
        nonlocal held
        if count not in answers:
            found = tried(count)
            if answers[count]:
                held = found  # numbers that hold go up
        return not answers[count]

    if not trials.limits:
        first_that_holds(1, len(order) + 1, fails)
        return held
    wanted = tried(len(order)) if order else trial
    if not answers[len(order)] and answers[0]:
        first_that_holds(1, len(order), fails)  # how far it is: for the points
    return wanted


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
