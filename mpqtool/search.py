"""Let a method find the widths and scales of a network."""

from __future__ import annotations

__all__ = ["held_out_metric", "lsq_network", "make_trainer", "search"]

import math
from collections.abc import Callable, Iterator
from typing import Any

import onnx_ir as ir
from torch import Tensor, fx, nn

from mpqtool.importer import import_graph
from mpqtool.passes.place import free_values
from mpqtool.passes.plan import Plan
from mpqtool.passes.quantize import snap
from mpqtool.passes.roles import Role, foldable, roles

from .data import Split
from .job import Job
from .method_options import INTEGER_SHARE
from .methods.batch_norm import reestimate
from .methods.configurations import attach_lsq, configurations
from .methods.impq import SAMPLES, Impq, ImpqSettings
from .methods.lsq import Lsq, LsqSettings
from .metrics import metric_name, score
from .optimization import Recipe
from .options import parse_bits
from .quantizers import OffsetQuantizer
from .quantizers.attach import activation_quantizers, attach, read_plan
from .training import Trainer

_ENOUGH = 4
"""Bits from which a whole zero point, fitted, does for a skewed activation."""


def make_trainer(job: Job, split: Split, *, mixed_precision: str = "no") -> Trainer:
    """The training loop of a run over one split."""
    options = job.options
    return Trainer(
        split,
        teacher=import_graph(job.folded) if job.mode == "distill" else None,
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
    )


def search(job: Job) -> tuple[fx.GraphModule, list[dict[str, Any]]]:
    """Learn bit-widths and scales with BatchNormalization in training.

    Returns:
        The network with its quantizers, and one row per iteration or epoch.
    """
    trainer = make_trainer(job, job.tuning, mixed_precision=job.options.mixed_precision)
    method = _impq(job, trainer) if job.options.method == "impq" else _lsq(job, trainer)
    checkpoint = job.resumed("search")
    if checkpoint is not None:
        method.resume(checkpoint)
    history = method.run()
    if _snap_offsets(job, method.network):  # a shift of a value is one of all that layers make of it
        reestimate(method.network, _tuning_batches(job, trainer)())
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


def _impq(job: Job, trainer: Trainer) -> Impq:
    measure, float_metric = held_out_metric(job, trainer)
    target_weights, target_activations = parse_bits(job.options.target_bits)
    return Impq(
        attach(import_graph(job.model), job.plan),
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
    for quantizer in activation_quantizers(network):
        if quantizer.name in inputs:  # data do not change while training, and 8 bits leave nothing to learn
            quantizer.learned_scale.requires_grad_(False)
    return network, frozenset(configs)


def _lsq(job: Job, trainer: Trainer) -> Lsq:
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
        batches=_tuning_batches(job, trainer),
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


def _tuning_batches(job: Job, trainer: Trainer) -> Callable[[], Iterator[tuple[Tensor, ...]]]:
    """The same few hundred training inputs at every call."""
    return lambda: trainer.batches_of(job.tuning, limit=SAMPLES)


def held_out_metric(job: Job, trainer: Trainer) -> tuple[Callable[[nn.Module], float], float]:
    """The metric on held-out data, and that of the float network; NaN where it is the yardstick itself."""
    reference = trainer.predict(import_graph(job.folded), job.held_out)
    labels = job.held_out.labels
    metric = metric_name(reference, labels)

    def measure(network: nn.Module) -> float:
        return score(metric, trainer.predict(network, job.held_out), reference, labels)

    return measure, math.nan if metric == "sqnr_db" else score(metric, reference, reference, labels)
