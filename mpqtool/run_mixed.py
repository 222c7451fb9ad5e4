"""Plans with as few bits, or as few float tensors, as a floor under the accuracy allows."""

from __future__ import annotations

__all__ = ["Trial", "Trials", "descend", "repair"]

import collections
import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from mpqtool.importer import import_graph
from mpqtool.passes.place import place
from mpqtool.passes.plan import Grid, Plan

from .coverage import open_sizes
from .data import Split
from .errors import ModelError, OptionError
from .finished import Finished
from .job import Job
from .method_options import MIXED
from .methods.budgets import in_words
from .methods.descent import Point, first_that_holds, steps_down
from .methods.point_noise import measure_alone, point_noise
from .metrics import metric_name, score
from .options import parse_bits
from .prices import make_plan_prices
from .quantizers.attach import attach, plain_activations
from .quantizers.calibrate import observe

_MEASURED = 1024
"""Held-out samples, at most, that a plan is measured on."""
_SCORED, _SCORED_AT_ONCE = 64, 8
"""Samples that the noise of tensors is told from."""
_SUSPECTS = 16
"""Tensors with the most noise, by the estimate, that are measured one at a time."""
_NARROWEST, _WIDEST = 2, 8

Make = Callable[[Plan], Finished]


@dataclasses.dataclass(frozen=True)
class Trial:
    """A plan that was tried.

    Attributes:
        plan: Widths, before anything was fitted.
        finished: What became of it.
        held_out: Its metric on held-out data.
        costs: What it costs, by name of a budget.
    """

    plan: Plan
    finished: Finished
    held_out: float
    costs: Mapping[str, float]


class Trials:
    """Makes networks of plans, and measures them; one at a time is kept.

    Attributes:
        floor: The metric on held-out data that a plan must have.
        points: One row per plan that was tried.
        limits: What a plan may cost, by name of a budget.

    Args:
        job: The run.
        make: Fits a plan.
    """

    def __init__(self, job: Job, make: Make) -> None:
        self.job, self._make = job, make
        split = job.held_out
        stride = max(1, -(-len(split) // _MEASURED))
        labels = None if split.labels is None else split.labels[::stride]
        self._split = Split({name: array[::stride] for name, array in split.inputs.items()}, labels)
        self._reference = _outputs(import_graph(job.folded), self._split)
        self._metric = metric_name(self._reference, labels)
        self._costs = make_plan_prices(job.folded, job.plan, open_sizes(job.folded, job.data.test.inputs))
        self.points: list[dict[str, Any]] = []
        self.floor, self.limits = self._floor(), self._limits()

    def __call__(self, plan: Plan) -> Trial:
        """Fit a plan, and measure it."""
        finished = self._make(plan)
        outputs = _outputs(finished.simulation, self._split)
        held_out = score(self._metric, outputs, self._reference, self._split.labels)
        costs = self._costs(plan)
        row = {**costs, "left_float": len(plan.left_float), "held_out": held_out,
               "feasible": held_out >= self.floor and self.affords(costs)}  # fmt: skip
        self.points.append(row)
        self.job.reporter.event("point", **row)
        return Trial(plan, finished, held_out, costs)

    def holds(self, trial: Trial) -> bool:
        """Whether a plan is accurate enough."""
        return trial.held_out >= self.floor

    def costs(self, plan: Plan) -> Mapping[str, float]:
        """What a plan costs, which nothing needs to be fitted for."""
        return self._costs(plan)

    def affords(self, costs: Mapping[str, float]) -> bool:
        """Whether no limit is exceeded."""
        return all(costs[name] <= limit for name, limit in self.limits.items())

    def told(self, trial: Trial) -> Finished:
        """What became of the plan that is taken, with all that were tried, and what binds."""
        used = {name: trial.costs[name] for name in self.limits}
        missed = [name for name, limit in self.limits.items() if used[name] > limit]
        accurate = self.holds(trial)
        floor = "min_sqnr" if self._metric == "sqnr_db" else "max_drop"
        binding: str | None = None
        if not accurate or (self.job.options.bits == MIXED and not self.limits):
            binding = floor
        elif self.limits:
            binding = max(self.limits, key=lambda name: used[name] / self.limits[name])
        self._say(trial, missed, accurate, binding)
        budgets = {
            "limits": self.limits, "used": used, "floor": self.floor, "held_out": trial.held_out,
            "binding": binding, "feasible": accurate and not missed,
        }  # fmt: skip
        return dataclasses.replace(trial.finished, points=self.points, budgets=budgets)

    def _say(self, trial: Trial, missed: list[str], accurate: bool, binding: str | None) -> None:
        reporter = self.job.reporter
        words = {name: in_words(name, trial.costs[name]) for name in self.limits}
        if accurate and not missed:
            if binding is not None:
                what = words.get(binding, f"accuracy, {self.said(trial)}")
                reporter.say(f"budgets: all are met; what binds is {what}")
            return
        faults = [] if accurate else [self.said(trial)]
        faults += [f"{words[name]}, {self.limits[name]:g} asked" for name in missed]
        held = [point for point in self.points if point["held_out"] >= self.floor]
        best = min(held, key=lambda point: point["size"], default=None)
        closest = (
            "none of the plans tried holds the floor"
            if best is None
            else f"the smallest that holds the floor has W{best['weights']:.2f} A{best['activations']:.2f}, "
            f"{best['size']:,} bytes of weights"
        )
        reporter.warn(f"budgets: no plan meets all; this one has {' and '.join(faults)}; {closest}")

    def said(self, trial: Trial) -> str:
        """The metric of a plan beside what it must be, for a person."""
        unit = "dB" if self._metric == "sqnr_db" else f"% {self._metric}"
        return f"{trial.held_out:.2f} {unit} on held-out data, at least {self.floor:.2f} asked"

    def _floor(self) -> float:
        options, labels = self.job.options, self._split.labels
        if self._metric == "sqnr_db":
            return options.min_sqnr
        exact = score(self._metric, self._reference, self._reference, labels)
        # One sample more or less is no drop that could be told from noise.
        return exact - max(options.max_drop, 100 / len(self._split)) - 1e-9

    def _limits(self) -> dict[str, float]:
        options, limits = self.job.options, dict[str, float]()
        if options.target_bits is not None:
            limits["weights"], limits["activations"] = parse_bits(options.target_bits)
        if options.target_size is not None:
            limits["size"] = options.target_size
        if options.target_bitops is not None:
            limits["bitops"] = options.target_bitops
            if math.isinf(self._costs(self.job.plan)["bitops"]):
                raise OptionError(
                    f"target_bitops {options.target_bitops:g} cannot be checked: the size of a layer's "
                    "result is not known, so its multiply-accumulates are not. Give another target."
                )
        return limits


@torch.no_grad()
def _outputs(network: Callable[..., Any], split: Split) -> list[Any]:
    """Outputs over a split, in graph order."""
    columns = [torch.from_numpy(array).split(64) for array in split.inputs.values()]
    if isinstance(network, torch.nn.Module):
        network.eval()
    parts = [network(*batch) for batch in zip(*columns, strict=True)]
    return [torch.cat(of_output).numpy() for of_output in zip(*parts, strict=True)]


def repair(trials: Trials, trial: Trial, chunks: list[tuple[Tensor, ...]]) -> Trial:
    """Leave as few tensors in float as it takes to hold the floor, those with the most noise first.

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
    if not holds(count) or not found[count].plan.weights:
        best = max(found.values(), key=lambda tried: tried.held_out)
        raise ModelError(
            f"Cannot quantize {str(job.path)!r} and hold the floor: {trials.said(best)}, with "
            f"{len(best.plan.left_float)} tensors left in float. Give more bits or calibration samples, "
            "other --ranges, or allow more with --max-drop or --min-sqnr; or use a method that trains."
        )
    shown = ", ".join(name for name, _ in suspects[:count][:3]) + (", ..." if count > 3 else "")
    job.reporter.warn(f"{count} tensors stay float, as without it: {trials.said(trial)}: {shown}")
    return found[count]


def _by_noise(job: Job, trial: Trial, chunks: list[tuple[Tensor, ...]]) -> list[tuple[str, float]]:
    """Every quantized tensor and the noise that it makes alone, the worst first."""
    network = attach(import_graph(job.folded), trial.finished.plan).eval()
    small = _scored(chunks)
    estimated = _noise(job, trial, small, [*range(_NARROWEST, _WIDEST + 1)])
    widths = {entry.name: max(entry.bits) for entry in trial.plan.weights}
    widths |= {entry.name: entry.bits for entry in trial.plan.activations}
    shares = {name: row[widths[name]] for name, row in estimated.items()}
    suspects = sorted(shares, key=lambda name: -shares[name])[:_SUSPECTS]
    shares |= measure_alone(network, small, suspects)
    return sorted(shares.items(), key=lambda item: -item[1])


def _scored(chunks: list[tuple[Tensor, ...]]) -> list[tuple[Tensor, ...]]:
    """A few samples, in small parts."""
    parts = [
        part for chunk in chunks for part in zip(*(x.split(_SCORED_AT_ONCE) for x in chunk), strict=True)
    ]
    return parts[: max(1, _SCORED // _SCORED_AT_ONCE)]


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
    noise = _noise(trials.job, trial, _scored(chunks), widths)
    order = _asked_for(trials, trial.plan, steps_down(_movable(trials, trial.plan, noise)))
    found = {0: trial}

    def fails(count: int) -> bool:
        if count not in found:
            tried = found[count] = trials(_with_fewer(trial.plan, order[:count]))
            trials.job.reporter.say(
                f"W{tried.costs['weights']:.2f} A{tried.costs['activations']:.2f}  {trials.said(tried)}"
            )
        return not trials.holds(found[count])

    if trials.limits and not fails(len(order)):
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
