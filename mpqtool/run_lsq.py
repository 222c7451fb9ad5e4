"""LSQ and LSQ+ in a run."""

from __future__ import annotations

__all__ = ["lsq", "lsq_network"]

import math

import onnx_ir as ir
from torch import fx

from mpqtool.importer import import_graph
from mpqtool.passes.place import free_values
from mpqtool.passes.plan import Plan
from mpqtool.passes.roles import Role, foldable, roles

from .job import Job
from .method_options import INTEGER_SHARE
from .methods.configurations import attach_lsq, configurations
from .methods.lsq import Lsq, LsqSettings
from .quantizers import OffsetQuantizer
from .quantizers.attach import activation_quantizers, fix_scales
from .run_trainer import held_out_metric, tuning_batches
from .training import Trainer

_ENOUGH = 4
"""Bits from which a whole zero point, fitted, does for a skewed activation."""


def lsq_network(
    model: ir.Model,
    folded: ir.Model,
    plan: Plan,
    *,
    config: str,
    offsets: bool,
    per_kernel: bool = True,
    learned_offset: bool = True,
) -> tuple[fx.GraphModule, frozenset[str]]:
    """The network that LSQ or LSQ+ trains, its quantizers without numbers.

    Args:
        model: Normal form, BatchNormalization kept.
        folded: The same, BatchNormalization folded.
        plan: Which tensors get a quantizer, of ``folded``.
        config: ``auto``, or the number of the configuration.
        offsets: Whether ``auto`` means LSQ+.
        per_kernel: Whether each kernel has a scale of its own, or each layer.
        learned_offset: Whether offsets are learned; else they keep what the initialization gives.

    Returns:
        The network, and the names of the activations that have a configuration. The others have fitted zero
        points: graph inputs, what no layer multiplies, and, where LSQ+ is to decide (``auto``), wide skewed
        activations whose offset could not be folded.
    """
    inputs = {str(value.name) for value in folded.graph.inputs}
    found, fitted = roles(folded, plan), free_values(folded) | inputs
    if config == "auto" and offsets:
        # An offset that is rounded in the end costs more than one that never was, where codes are enough.
        wide = {a.name for a in plan.activations if a.bits >= _ENOUGH and found[a.name] is Role.SKEWED}
        fitted |= wide - foldable(folded, plan)
    configured = {name: role for name, role in found.items() if name not in fitted}
    configs = configurations(configured, config, offsets=offsets)
    network = attach_lsq(
        import_graph(model), plan, configs, per_kernel=per_kernel, learned_offset=learned_offset
    )
    fix_scales(network, inputs)
    return network, frozenset(configs)


def lsq(job: Job, trainer: Trainer) -> Lsq:
    """The method, ready to run or to be resumed."""
    options = job.options
    measure, float_metric = held_out_metric(job, trainer)
    network, configured = lsq_network(
        job.model,
        job.folded,
        job.plan,
        config=options.config,
        offsets=options.method == "lsq+",
        per_kernel=options.weight_scales == "kernel",
    )
    if math.isfinite(float_metric):
        job.reporter.say(f"float     held-out {float_metric:.2f}")
    _say_rounded(job, network)
    return Lsq(
        network,
        trainer,
        held_out=measure,
        batches=tuning_batches(job, trainer),
        settings=LsqSettings(
            init=options.init,
            epochs=(1 - INTEGER_SHARE) * options.epochs,
            lr=options.lr,
            span=(0.0, 1 - INTEGER_SHARE),
            patience=options.patience,
            configured=configured,
            free=free_values(job.folded),
            float_metric=float_metric,
        ),
        reporter=job.reporter,
        save=lambda checkpoint: job.save("search", checkpoint),
    )


def _say_rounded(job: Job, network: fx.GraphModule) -> None:
    """Which learned offsets the integer file will not have, if any."""
    learned = [q.name for q in activation_quantizers(network) if isinstance(q, OffsetQuantizer)]
    if not learned:
        return
    kept = foldable(job.folded, job.plan)
    rounded = [name for name in learned if name not in kept]
    if rounded:
        shown = ", ".join(rounded[:3]) + (", ..." if len(rounded) > 3 else "")
        job.reporter.say(
            f"offsets of {len(rounded)} of {len(learned)} activations are rounded to whole codes before the "
            f"last epochs: {shown}, as not only Conv and Gemm use them, or a sum or product makes them"
        )
