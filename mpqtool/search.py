"""Let a method find the widths and scales of a network."""

from __future__ import annotations

__all__ = ["make_trainer", "search"]

import math
from collections.abc import Callable, Iterator

from torch import Tensor, fx

from mpqtool.importer import import_graph
from mpqtool.passes.place import free_values

from .data import Split
from .job import Job
from .methods.impq import SAMPLES, Impq, ImpqSettings
from .metrics import metric_name, score
from .options import parse_bits
from .quantizers.attach import attach
from .training import Trainer


def make_trainer(job: Job, split: Split) -> Trainer:
    """The training loop of a run over one split."""
    return Trainer(
        split,
        teacher=import_graph(job.folded) if job.mode == "distill" else None,
        batch_size=job.options.batch_size,
        epoch_samples=job.options.epoch_samples,
        seed=job.options.seed,
        reporter=job.reporter,
    )


def search(job: Job) -> tuple[fx.GraphModule, list[dict[str, object]]]:
    """Learn bit-widths and scales with BatchNormalization in training.

    Returns:
        The network with its quantizers, and one row per iteration.
    """
    network = attach(import_graph(job.model), job.plan)
    trainer = make_trainer(job, job.tuning)
    measure, float_metric = _measure(job, trainer)
    target_weights, target_activations = parse_bits(job.options.target_bits)
    method = Impq(
        network,
        trainer,
        held_out=measure,
        batches=_tuning_batches(job, trainer),
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
    checkpoint = job.resumed("search")
    if checkpoint is not None:
        method.resume(checkpoint)
    return network, method.run()


def _tuning_batches(job: Job, trainer: Trainer) -> Callable[[], Iterator[tuple[Tensor, ...]]]:
    """The same few hundred training inputs at every call."""
    return lambda: trainer.batches_of(job.tuning, limit=SAMPLES)


def _measure(job: Job, trainer: Trainer) -> tuple[Callable[[fx.GraphModule], float], float]:
    """The metric on held-out data, and that of the float network; NaN where it is the yardstick itself."""
    reference = trainer.predict(import_graph(job.folded), job.held_out)
    labels = job.held_out.labels
    metric = metric_name(reference, labels)

    def measure(network: fx.GraphModule) -> float:
        return score(metric, trainer.predict(network, job.held_out), reference, labels)

    return measure, math.nan if metric == "sqnr_db" else score(metric, reference, reference, labels)
