"""What every method is given: the training loop, a few hundred inputs, and the held-out metric."""

from __future__ import annotations

__all__ = ["held_out_metric", "make_trainer", "tuning_batches"]

import dataclasses
import math
from collections.abc import Callable, Iterator

from torch import Tensor, nn

from mpqtool.importer import import_graph

from .data import Split
from .job import Job
from .methods.impq import SAMPLES
from .optimization import Recipe
from .training import Trainer


def make_trainer(job: Job, split: Split, *, mixed_precision: str = "no") -> Trainer:
    """The training loop of a run over one split."""
    options = job.options
    if not job.has_lesson:  # labels are for the metric alone
        split = dataclasses.replace(split, labels=None)
    return Trainer(
        split,
        teacher=import_graph(job.folded) if job.mode != "labels" else None,
        batch_size=options.batch_size,
        epoch_samples=options.epoch_samples,
        seed=options.seed,
        reporter=job.reporter,
        recipe=Recipe(
            optimizer=options.optimizer,
            weight_decay=options.weight_decay,
            accumulate=options.accumulate,
            mixed_precision=mixed_precision,
        ),
        task_loss=job.loss,
    )


def tuning_batches(job: Job, trainer: Trainer) -> Callable[[], Iterator[tuple[Tensor, ...]]]:
    """The same few hundred training inputs at every call."""
    return lambda: trainer.batches_of(job.tuning, limit=SAMPLES)


def held_out_metric(job: Job, trainer: Trainer) -> tuple[Callable[[nn.Module], float], float]:
    """The metric on held-out data, and that of the float network; NaN where it is the yardstick alone."""
    reference = trainer.predict(import_graph(job.folded), job.held_out)
    labels = job.held_out.labels

    def measure(network: nn.Module) -> float:
        return job.measure(trainer.predict(network, job.held_out), reference, labels)

    if job.metric == "sqnr_db" or job.data.synthetic:
        return measure, math.nan
    return measure, job.measure(reference, reference, labels)
