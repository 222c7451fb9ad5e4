"""Let a method find the widths and scales of a network."""

from __future__ import annotations

__all__ = ["search"]

from collections.abc import Callable
from typing import Any

from torch import fx

from mpqtool.passes.quantize import snap

from .job import Job
from .methods.adaqat import AdaQat
from .methods.batch_norm import reestimate
from .methods.impq import Impq
from .methods.lsq import Lsq
from .quantizers import OffsetQuantizer
from .quantizers.attach import activation_quantizers, read_plan
from .resumption import TAKEN
from .run_adaqat import adaqat
from .run_impq import impq, taken
from .run_lsq import lsq
from .run_trainer import make_trainer, tuning_batches
from .training import Trainer

_METHODS: dict[str, Callable[[Job, Trainer], Impq | Lsq | AdaQat]] = {
    "adaqat": adaqat,
    "impq": impq,
    "lsq": lsq,
    "lsq+": lsq,
}


def search(job: Job) -> tuple[fx.GraphModule, list[dict[str, Any]]]:
    """Learn bit-widths and scales with BatchNormalization in training; or take them from an iteration.

    Returns:
        The network with its quantizers, and one row per iteration or epoch.
    """
    kept = job.resumed(TAKEN)
    if kept is not None:
        return taken(job, kept)
    trainer = make_trainer(job, job.tuning, mixed_precision=job.options.mixed_precision)
    assert job.options.method is not None  # a plan that is applied as it is needs no search
    method = _METHODS[job.options.method](job, trainer)
    checkpoint = job.resumed("search")
    if checkpoint is not None:
        method.resume(checkpoint)
    history = method.run()
    if _snap_offsets(job, method.network):  # a shift of a value is one of all that layers make of it
        reestimate(method.network, tuning_batches(job, trainer)())
    return method.network, history


def _snap_offsets(job: Job, network: fx.GraphModule) -> bool:
    """Round the learned offsets that cannot be folded to whole codes; whether there are any."""
    learned = [q for q in activation_quantizers(network) if isinstance(q, OffsetQuantizer) and q.is_set]
    if not learned:
        return False
    plan = read_plan(network)
    snapped, done = snap(job.folded, plan), False
    for quantizer in learned:
        before, entry = plan.activation(quantizer.name), snapped.activation(quantizer.name)
        if entry != before:
            assert entry is not None  # the plan is of this network, and complete
            assert entry.scale is not None
            assert entry.zero_point is not None
            beta = -entry.scale * (entry.zero_point + quantizer.low)
            quantizer.set_numbers(scale=entry.scale, beta=beta)
            done = True
    return done
