"""Plans of one model that are tried: fitted, measured on held-out data, held against floor and limits."""

from __future__ import annotations

__all__ = ["Trial", "Trials"]

import dataclasses
import math
from collections.abc import Callable, Mapping
from typing import Any

import onnx_ir as ir
import torch

from mpqtool.importer import import_graph
from mpqtool.passes.plan import Plan

from .coverage import open_sizes
from .data import Split
from .errors import OptionError
from .finished import Finished
from .job import Job
from .method_options import MIXED
from .methods.budgets import in_words
from .metrics import sqnr_error
from .plan_maker import PlanMaker
from .prices import make_plan_prices, uncheckable

_MEASURED = 1024
"""Held-out samples, at most, that a plan is measured on."""
_ERRORS = 2
"""Standard errors by which a plan is to be over a floor in dB: one of forty is below it on other samples."""


@dataclasses.dataclass(frozen=True)
class Trial:
    """A plan that was tried.

    Attributes:
        plan: Widths, before anything was fitted.
        finished: What became of it.
        held_out: Its metric on held-out data.
        error: Standard error of that, where the floor counts in dB; else 0: the floor has room for a sample.
        costs: What it costs, by name of a budget.
    """

    plan: Plan
    finished: Finished
    held_out: float
    error: float
    costs: Mapping[str, float]


class Trials:
    """Makes networks of plans, and measures them.

    Attributes:
        floor: The metric on held-out data that a plan must have.
        points: One row per plan that was tried.
        limits: What a plan may cost, by name of a budget.

    Args:
        job: The run; ``folded`` is what plans are applied to.
        make: Fits plans.
        reference: The float model that they are held against.

    Raises:
        OptionError: A limit cannot be checked, or nothing says how far bits may come down.
    """

    def __init__(self, job: Job, make: PlanMaker, reference: ir.Model) -> None:
        self.job, self._make = job, make
        split = job.held_out
        stride = max(1, -(-len(split) // _MEASURED))
        labels = None if split.labels is None else split.labels[::stride]
        self._split = Split({name: array[::stride] for name, array in split.inputs.items()}, labels)
        self._reference = _outputs(import_graph(reference), self._split)
        self._costs = make_plan_prices(job.folded, job.plan, open_sizes(job.folded, job.data.test.inputs))
        self.points: list[dict[str, Any]] = []
        self.floor, self.limits = self._floor(), self._limits()

    def __call__(self, plan: Plan) -> Trial:
        """Fit a plan, and measure it."""
        finished = self._make(plan)
        outputs = _outputs(finished.simulation, self._split)
        held_out = self.job.measure(outputs, self._reference, self._split.labels)
        error = sqnr_error(outputs, self._reference) if self.job.metric == "sqnr_db" else 0.0
        costs = self._costs(finished.plan)
        enough = self._is_enough(held_out, error)
        left = len(finished.plan.left_float)
        row = {
            **costs, "ranges": self._make.ranges, "left_float": left, "held_out": held_out,
            "held_out_error": error, "feasible": enough and self.affords(costs),
        }  # fmt: skip
        self.points.append(row)
        self.job.reporter.event("point", **row)
        return Trial(plan, finished, held_out, error, costs)

    def holds(self, trial: Trial) -> bool:
        """Whether a plan is accurate enough."""
        return self._is_enough(trial.held_out, trial.error)

    def is_enough(self, point: Mapping[str, Any]) -> bool:
        """The same of a row of ``points``."""
        return self._is_enough(point["held_out"], point["held_out_error"])

    def _is_enough(self, held_out: float, error: float) -> bool:
        return bool(held_out - _ERRORS * error >= self.floor)

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
        floor = "min_sqnr" if self.job.metric == "sqnr_db" else "max_drop"
        binding: str | None = None
        alike = [row for row in self.points if row["ranges"] == self._make.ranges]
        if not accurate or (not self.limits and not all(map(self.is_enough, alike))):
            binding = floor
        elif self.limits:
            binding = max(self.limits, key=lambda name: used[name] / self.limits[name])
        self._say(trial, missed, accurate, binding)
        budgets = {
            "limits": self.limits, "used": used, "floor": None if math.isinf(self.floor) else self.floor,
            "held_out": trial.held_out, "binding": binding, "feasible": accurate and not missed,
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
        held = [point for point in self.points if self.is_enough(point)]
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
        metric = self.job.metric
        unit = {"sqnr_db": "dB", "top1": "% top1", "agreement": "% agreement"}.get(metric, metric)
        spread = f" less {_ERRORS * trial.error:.2f} for chance" if trial.error else ""
        asked = "" if math.isinf(self.floor) else f", at least {self.floor:.2f} asked"
        return f"{trial.held_out:.2f} {unit}{spread} on held-out data{asked}"

    def _floor(self) -> float:
        options, metric = self.job.options, self.job.metric
        if self.job.data.synthetic:  # no accuracy is measured, so none can be asked for
            if options.bits == MIXED and not options.limits:
                raise OptionError(
                    "bits 'mixed' goes down as far as the accuracy allows, which nobody can measure without "
                    "data; give samples with --data, or a target"
                )
            return -math.inf
        if metric == "sqnr_db":
            return options.min_sqnr
        exact = self.job.measure(self._reference, self._reference, self._split.labels)
        # One sample more or less is no drop that could be told from noise.
        least = 100 / len(self._split) if metric in ("top1", "agreement") else 0.0
        drop = max(options.max_drop or 0.0, least)
        if 0 < exact <= drop:
            self.job.reporter.warn(
                f"the {metric} of the float model is {exact:g}, and max_drop {drop:g} allows to lose all of "
                "it: give a metric in percent, or a smaller --max-drop"
            )
        return exact - drop - 1e-9

    def _limits(self) -> dict[str, float]:
        limits = self.job.options.limits
        start = self._costs(self.job.plan)
        for name, limit in limits.items():
            if math.isinf(start[name]):
                raise OptionError(uncheckable(name, limit))
        return dict(limits)


@torch.no_grad()
def _outputs(network: Callable[..., Any], split: Split) -> list[Any]:
    """Outputs over a split, in graph order."""
    columns = [torch.from_numpy(array).split(64) for array in split.inputs.values()]
    if isinstance(network, torch.nn.Module):
        network.eval()
    parts = [network(*batch) for batch in zip(*columns, strict=True)]
    return [torch.cat(of_output).numpy() for of_output in zip(*parts, strict=True)]
