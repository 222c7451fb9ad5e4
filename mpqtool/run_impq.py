"""IMPQ in a run."""

from __future__ import annotations

__all__ = ["impq"]

from mpqtool.importer import import_graph
from mpqtool.passes.place import free_values

from .job import Job
from .methods.impq import Impq, ImpqSettings
from .options import parse_bits
from .quantizers.attach import attach
from .run_trainer import held_out_metric, tuning_batches
from .training import Trainer


def impq(job: Job, trainer: Trainer) -> Impq:
    """The method, ready to run or to be resumed."""
    measure, float_metric = held_out_metric(job, trainer)
    target_weights, target_activations = parse_bits(job.options.target_bits)
    return Impq(
        attach(import_graph(job.model), job.plan),
        trainer,
        held_out=measure,
        batches=tuning_batches(job, trainer),
        settings=ImpqSettings(
            target_weights=target_weights,
            target_activations=target_activations,
            max_drop=job.options.max_drop,
            epochs=job.options.epochs,
            lr=job.options.lr,
            seed=job.options.seed,
            fixed_activations=frozenset(str(value.name) for value in job.folded.graph.inputs),
            free_activations=free_values(job.folded),
            float_metric=float_metric,
        ),
        reporter=job.reporter,
        save=lambda checkpoint: job.save("search", checkpoint),
    )
