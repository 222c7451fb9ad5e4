"""IMPQ in a run."""

from __future__ import annotations

__all__ = ["impq", "impq_network", "taken"]

from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import fx

from mpqtool.importer import import_graph
from mpqtool.passes.normalize.fold_batch_norm import batch_norm_factors
from mpqtool.passes.place import free_values

from .checkpoint import Checkpoint
from .coverage import open_sizes
from .errors import OptionError
from .hardware import layer_costs
from .job import Job
from .methods.budgets import Budgets
from .methods.impq import Impq
from .methods.impq_settings import ImpqSettings
from .methods.reduction import ReductionSettings
from .methods.selection import Step
from .prices import make_prices, uncheckable
from .quantizers.attach import attach
from .run_trainer import held_out_metric, tuning_batches
from .training import Trainer


def impq(job: Job, trainer: Trainer) -> Impq:
    """The method, ready to run or to be resumed.

    Raises:
        OptionError: BitOPs are limited, and those of a layer are not known.
        ModelError: MACs are ranked by, and those of a layer are not known.
    """
    measure, float_metric = held_out_metric(job, trainer)
    options, free = job.options, free_values(job.folded)
    return Impq(
        impq_network(job),
        trainer,
        held_out=measure,
        batches=tuning_batches(job, trainer),
        settings=ImpqSettings(
            reduction=_reduction(job, free),
            budgets=_budgets(job, free),
            first=options.first,
            max_drop=options.max_drop or 0.0,
            epochs=options.epochs,
            lr=options.lr,
            float_metric=float_metric,
        ),
        reporter=job.reporter,
        save=lambda checkpoint: job.save("search", checkpoint),
        keep=job.keep,
    )


def impq_network(job: Job) -> fx.GraphModule:
    """The network that IMPQ trains: quantizers without numbers, or with those of ``--plan``.

    Scales of a plan are in units of the folded weights; here BatchNormalization is not folded. Shifts are
    for files, and are found anew. Offsets, which IMPQ has not, are rounded to whole codes.
    """
    factors = batch_norm_factors(job.model)
    weights = [
        entry.model_copy(update={"scale": _unfolded_scale(entry.scale, factors.get(entry.name)), "shift": 0})
        for entry in job.plan.weights
    ]
    activations = [entry.snapped() for entry in job.plan.activations]
    rounded = sum(bool(entry.offset) for entry in job.plan.activations)
    if rounded:
        job.reporter.say(f"offsets of {rounded} activations are rounded to whole codes: IMPQ learns none")
    return attach(import_graph(job.model), job.plan.replaced(weights=weights, activations=activations))


def _unfolded_scale(
    scale: tuple[float, ...] | None, factor: NDArray[np.float32] | None
) -> tuple[float, ...] | None:
    """Scales of kernels before BatchNormalization multiplies them; of those it makes 0, as they are."""
    if scale is None or factor is None:
        return scale
    size = np.where(factor == 0, 1, np.abs(factor))
    return tuple((np.asarray(scale) / size).tolist())


def taken(job: Job, checkpoint: Checkpoint) -> tuple[fx.GraphModule, list[dict[str, Any]]]:
    """The network of an iteration that was kept, and the history up to it."""
    network = impq_network(job)
    network.load_state_dict(checkpoint.tensors)
    history: list[dict[str, Any]] = checkpoint.state["history"]
    job.reporter.say(f"iteration {history[-1]['iteration']} is taken as it was kept")
    return network, history


def _reduction(job: Job, free: frozenset[str]) -> ReductionSettings:
    options, inputs = job.options, job.data.test.inputs
    weights = [entry.name for entry in job.plan.weights]
    by_macs = options.rank == "macs"
    return ReductionSettings(
        granularity=options.granularity,
        sensitivity=options.sensitivity,
        rank=options.rank,
        prune=options.prune,
        clip=options.clip,
        activation_clip=options.activation_clip,
        step=Step(
            groups=options.step_groups, sensitivity=options.step_sensitivity, mismatch=options.step_mismatch
        ),
        fixed=free | {str(value.name) for value in job.folded.graph.inputs},
        costs=layer_costs(job.folded, job.plan, "bitops", learned=weights, inputs=inputs) if by_macs else (),
        seed=options.seed,
    )


def _budgets(job: Job, free: frozenset[str]) -> Budgets:
    limits = job.options.limits
    prices = make_prices(job.folded, job.plan, open_sizes(job.folded, job.data.test.inputs))
    if "bitops" in limits and prices({})["bitops"] == float("inf"):
        raise OptionError(uncheckable("bitops", limits["bitops"]))
    return Budgets(limits=limits, prices=prices, free=free)
