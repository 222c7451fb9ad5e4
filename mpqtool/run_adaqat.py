"""AdaQAT in a run."""

from __future__ import annotations

__all__ = ["adaqat", "adaqat_network"]

import math
from collections.abc import Collection
from typing import Any

from accelerate.utils import broadcast_object_list
from torch import Tensor, fx, nn

from mpqtool.importer import import_graph
from mpqtool.passes.ends import end_layers
from mpqtool.passes.normalize.fold_batch_norm import batch_norm_factors
from mpqtool.passes.place import free_values
from mpqtool.passes.plan import ActivationQuant, Plan, WeightQuant
from mpqtool.passes.roles import roles

from .errors import OptionError
from .hardware import layer_costs
from .job import Job
from .method_options import INTEGER_SHARE, SEARCH_SHARE
from .methods.adaqat import AdaQat, AdaQatSettings
from .methods.scratch import draw_anew
from .methods.width_start import SearchSettings
from .methods.width_variables import LayerCost
from .processes import is_main
from .quantizers import DorefaWeightQuantizer, Gain, PactQuantizer
from .quantizers.attach import attach, fix_scales, fixed_activation, weight_quantizers
from .run_trainer import held_out_metric, tuning_batches
from .training import Trainer

_CLIP = 8.0
"""Where clips start in training from scratch: AdaBits' implementation of PACT."""


def adaqat_network(
    network: fx.GraphModule,
    plan: Plan,
    *,
    normalized: Collection[str],
    clipped: Collection[str],
    scratch: bool,
) -> fx.GraphModule:
    """Insert the quantizers that AdaQAT trains, in place.

    Args:
        network: An imported graph.
        plan: What to quantize, at the widths of the start.
        normalized: Weights of layers with BatchNormalization behind them.
        clipped: Activations with a learned clip; the others have a learned scale.
        scratch: Whether the weights are those of an untrained network.
    """

    def make_weight(entry: WeightQuant, weight: Tensor) -> nn.Module:
        unnormalized = Gain.CONSTANT if scratch else Gain.LEAST_SQUARES
        return DorefaWeightQuantizer(
            entry.name,
            # No odd code is 0: a kernel of zeros, as pruning leaves them, has no bits.
            tuple(bits if bool(kernel.any()) else 0 for bits, kernel in zip(entry.bits, weight, strict=True)),
            elements=weight[0].numel(),
            gain=Gain.ONE if entry.name in normalized else unnormalized,
            positions=weight[0, 0].numel(),
        )

    def make_activation(entry: ActivationQuant, source: fx.Node) -> nn.Module:
        if entry.name in clipped:
            return PactQuantizer(entry.name, entry.bits)
        return fixed_activation(entry, source)

    return attach(network, plan, make_weight=make_weight, make_activation=make_activation)


def adaqat(job: Job, trainer: Trainer) -> AdaQat:
    """The method, ready to run or to be resumed.

    Raises:
        OptionError: There is no width to learn.
    """
    options = job.options
    measure, float_metric = held_out_metric(job, trainer)
    if math.isfinite(float_metric):
        job.reporter.say(f"float     held-out {float_metric:.2f}")
    network, batches = import_graph(job.model), tuning_batches(job, trainer)
    if options.from_scratch:
        kept = draw_anew(network, seed=options.seed)
        if kept:
            job.reporter.say(f"from scratch: {len(kept)} parameters stay as in the file, such as {kept[0]!r}")
    free, inputs = free_values(job.folded), {str(value.name) for value in job.folded.graph.inputs}
    found = {name: role for name, role in roles(job.folded, job.plan).items() if name not in free | inputs}
    network = adaqat_network(
        network,
        job.plan,
        normalized=batch_norm_factors(job.model),
        clipped=found,
        scratch=options.from_scratch,
    )
    fix_scales(network, inputs)
    return AdaQat(
        network,
        trainer,
        held_out=measure,
        batches=batches,
        settings=AdaQatSettings(
            epochs=(1 - INTEGER_SHARE) * options.epochs,
            lr=options.lr,
            span=(0.0, 1 - INTEGER_SHARE),
            free=free,
            float_metric=float_metric,
            way_out="a smaller --lambda",
            search=_search_settings(job, trainer),
            costs=_costs(job, _learned(job, network)),
            roles=found,
            clip=_CLIP if options.from_scratch else None,
        ),
        reporter=job.reporter,
        save=lambda checkpoint: job.save("search", checkpoint),
    )


def _costs(job: Job, learned: Collection[str]) -> list[LayerCost]:
    """The hardware term, the same in every process: the main one measures, while the others wait."""
    found: list[Any] = [None]
    if is_main():
        inputs, kind = job.data.test.inputs, job.options.hardware
        try:
            found = [layer_costs(job.folded, job.plan, kind, learned=learned, inputs=inputs)]
        except Exception as error:  # the others would wait for ever
            found = [error]
    broadcast_object_list(found)
    if isinstance(found[0], Exception):
        raise found[0]
    costs: list[LayerCost] = found[0]
    return costs


def _learned(job: Job, network: fx.GraphModule) -> list[str]:
    """The weights whose widths are learned.

    Unless asked for, not those of the first and the last layer; nor those that are all 0.
    """
    ends = frozenset() if job.options.all_layers else end_layers(job.folded.graph)
    fixed = {node.inputs[1].name for node in ends if node.inputs[1] is not None}
    found = [q.name for q in weight_quantizers(network) if bool(q.bits.any()) and q.name not in fixed]
    if not found:
        raise OptionError(
            f"There is no width to learn: all {len(job.plan.weights)} layers are first or last layers, which "
            "keep 8 bits. Give --all-layers, or a network with more layers."
        )
    return found


def _search_settings(job: Job, trainer: Trainer) -> SearchSettings:
    options = job.options
    activations = options.activation_granularity
    if activations == "auto":
        activations = "network" if options.granularity == "network" else "layer"
    return SearchSettings(
        balance=options.lambda_,
        weights=options.granularity,
        activations=None if options.hardware == "size" else activations,
        steps=trainer.steps(SEARCH_SHARE * options.epochs),
    )
