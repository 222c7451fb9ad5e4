"""Whether a run kept to the budgets that it was given, by what it wrote."""

from __future__ import annotations

__all__ = ["told"]

import math
from collections.abc import Mapping, Sequence
from typing import Any

from mpqtool.runtime.predict import predict

from . import rundir
from .finished import Finished
from .job import Job
from .methods.budgets import in_words
from .result import ResultFile


def told(job: Job, content: ResultFile, finished: Finished) -> dict[str, Any]:
    """``budgets`` of ``result.json``, and a line that says which one binds, or which are exceeded.

    What is used is that of the files. The metric is that of the integer network on held-out data, which
    methods that tried plans have measured.
    """
    options = job.options
    if not (finished.budgets or options.limits or options.max_drop is not None):
        return {}
    used = {name: _used(content, finished.history)[name] for name in options.limits}
    missed = [name for name, limit in options.limits.items() if not used[name] <= limit]
    faults = [f"{in_words(name, used[name])}, {options.limits[name]:g} asked" for name in missed]
    if finished.budgets:
        if missed and not any(finished.budgets["used"][name] > options.limits[name] for name in missed):
            job.reporter.warn(f"budgets: what stays float in the file makes it exceed {' and '.join(faults)}")
        return finished.budgets | {"used": used, "feasible": finished.budgets["feasible"] and not missed}
    floor, held_out = -math.inf, math.nan
    if options.max_drop is not None and job.metric != "sqnr_db":
        labels = job.held_out.labels
        reference = predict(job.folded, job.held_out.inputs)
        floor = job.measure(reference, reference, labels) - options.max_drop
        held_out = job.measure(predict(job.out / rundir.INT, job.held_out.inputs), reference, labels)
        if held_out < floor - 1e-9:
            faults.append(f"{held_out:.2f} {job.metric} on held-out data, at least {floor:.2f} asked")
    if faults:
        job.reporter.warn(
            f"budgets: exceeded are {' and '.join(faults)}; give more bits or --epochs, or allow more"
        )
    binding = max(options.limits, key=lambda name: used[name] / options.limits[name], default="max_drop")
    if faults and not missed:
        binding = "max_drop"
    return {
        "limits": options.limits, "used": used, "floor": _or_none(floor), "held_out": _or_none(held_out),
        "binding": binding, "feasible": not faults,
    }  # fmt: skip


def _used(content: ResultFile, history: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """What the network costs; widths are of what is quantized, where the method counts them."""
    counted = [row for row in history if row.get("weights_eff") is not None and row.get("accepted", True)]
    bits = counted[-1] if counted else content.bits.model_dump()
    found = {
        "weights": bits["weights_eff"], "activations": bits["activations_eff"],
        "size": content.bytes.weights_owed, "bitops": content.cost.bitops,
    }  # fmt: skip
    return {name: math.inf if number is None else number for name, number in found.items()}


def _or_none(number: float) -> float | None:
    return number if math.isfinite(number) else None
