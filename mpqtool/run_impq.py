"""IMPQ in a run."""

from __future__ import annotations

__all__ = ["impq"]

from mpqtool.importer import import_graph
from mpqtool.passes.place import free_values

from .coverage import open_sizes
from .errors import OptionError
from .hardware import layer_costs
from .job import Job
from .methods.budgets import Budgets
from .methods.impq import Impq
from .methods.impq_settings import ImpqSettings
from .methods.reduction import ReductionSettings
from .methods.selection import Step
from .options import parse_bits
from .prices import make_prices
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
        attach(import_graph(job.model), job.plan),
        trainer,
        held_out=measure,
        batches=tuning_batches(job, trainer),
        settings=ImpqSettings(
            reduction=_reduction(job, free),
            budgets=_budgets(job, free),
            first=options.first,
            max_drop=options.max_drop,
            epochs=options.epochs,
            lr=options.lr,
            float_metric=float_metric,
        ),
        reporter=job.reporter,
        save=lambda checkpoint: job.save("search", checkpoint),
    )


def _reduction(job: Job, free: frozenset[str]) -> ReductionSettings:
    options, inputs = job.options, job.data.test.inputs
    weights = [entry.name for entry in job.plan.weights]
    by_macs = options.rank == "macs"
    return ReductionSettings(
        granularity=options.granularity,
        sensitivity=options.sensitivity,
        rank=options.rank,
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
    options, limits = job.options, dict[str, float]()
    if options.target_bits is not None:
        limits["weights"], limits["activations"] = parse_bits(options.target_bits)
    if options.target_size is not None:
        limits["size"] = options.target_size
    if options.target_bitops is not None:
        limits["bitops"] = options.target_bitops
    prices = make_prices(job.folded, job.plan, open_sizes(job.folded, job.data.test.inputs))
    if "bitops" in limits and prices({})["bitops"] == float("inf"):
        raise OptionError(
            f"target_bitops {options.target_bitops:g} cannot be checked: the size of a layer's result is not "
            "known, so its multiply-accumulates are not. Give target_size or target_bits."
        )
    return Budgets(limits=limits, prices=prices, free=free)
