"""From the trained network to the one that is shipped: BatchNormalization folded, trained in integers."""

from __future__ import annotations

__all__ = ["finish"]

from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx_ir as ir
import torch
from numpy.typing import NDArray
from torch import Tensor, fx

from mpqtool.importer import import_graph
from mpqtool.importer.writeback import write_parameters
from mpqtool.passes import pipelines
from mpqtool.passes.normalize.fold_batch_norm import batch_norm_factors
from mpqtool.passes.plan import Grid, Plan, WeightQuant
from mpqtool.passes.quantize import snap
from mpqtool.passes.values import array

from .checkpoint import Checkpoint, tensors_under
from .errors import TrainingError
from .finished import Finished, freeze, parameter_arrays, settled
from .job import Job
from .method_options import INTEGER_SHARE
from .quantizers.attach import (
    attach,
    plain_weights,
    read_plan,
)
from .run_trainer import held_out_metric, make_trainer
from .search import search
from .simulate import IntegerSimulation

_MUCH = 2.0
"""Points of the held-out metric that are worth a warning."""
_IMPQ_EPOCHS, _IMPQ_LR_SHARE = 1, 0.3
"""Epochs in integers behind IMPQ, at most, and their peak learning rate as a share of ``--lr``."""


def finish(job: Job) -> Finished:
    """Search, fold BatchNormalization, and train the last epochs in integers.

    What they make worse on held-out data is not kept.
    """
    resumed = job.resumed("finish")
    if resumed is None:
        trained, history = search(job)
        model, plan = _fold(job, trained)
    else:
        model, history = job.folded, resumed.state["history"]
        plan = Plan.from_json(resumed.state["plan"], source="the checkpoint")
    network = attach(import_graph(model), plan)
    if resumed is None:
        _keep_sizes(network, trained)
    else:
        network.load_state_dict(tensors_under("network/", resumed.tensors))
    trainer, simulation = make_trainer(job, job.tuning), IntegerSimulation(network)
    measure, _ = held_out_metric(job, trainer)
    if resumed is None:
        before, former = measure(simulation), _copied(network)
    else:
        before, former = resumed.state["before"], tensors_under("former/", resumed.tensors)

    def save(epoch: int, momenta: dict[str, Tensor]) -> None:
        tensors = {f"network/{name}": tensor for name, tensor in network.state_dict().items()}
        tensors |= {f"former/{name}": tensor for name, tensor in former.items()}
        state = {
            "epoch": epoch, "epochs_begun": trainer.epochs_begun, "history": history, "plan": plan.to_json(),
            "before": before,
        }  # fmt: skip
        job.save("finish", Checkpoint(tensors | momenta, state))

    steps = _last_steps(job)
    trainer.fit(simulation, **steps, label="in integers", resume=resumed, on_epoch=save)
    after = measure(simulation) if steps["epochs"] else before
    if after < before:
        network.load_state_dict(former)
    history.append(
        {"phase": "integers", "held_out_before": before, "held_out": after, "accepted": after >= before}
    )
    _say_what_integers_cost(job, history)
    return freeze(network, simulation, model, history)


@torch.no_grad()
def _keep_sizes(network: fx.GraphModule, trained: fx.GraphModule) -> None:
    """Let kernels that folding made smaller be trained in the size that they had.

    To a kernel that is ``factor`` times what was trained, the steps of SGD are ``1 / factor**2`` times as
    large, those of AdamW ``1 / factor``; 1-bit kernels become a tenth of what they were. Kernels that became
    larger stay so: no BatchNormalization holds them any more.
    """
    before, after = dict(trained.named_parameters()), dict(network.named_parameters())
    for quantizer in plain_weights(network):
        old, new = (parameters[quantizer.name] for parameters in (before, after))
        factor = new.flatten(1).norm(dim=1) / old.to(new.device).flatten(1).norm(dim=1)
        factor = torch.where(factor > 0, factor.clamp(max=1), 1)  # of a kernel of zeros, 0 or no number
        new.div_(factor.view(-1, *[1] * (new.ndim - 1)))
        quantizer.factor.copy_(factor)


def _copied(network: fx.GraphModule) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in network.state_dict().items()}


def _say_what_integers_cost(job: Job, history: list[dict[str, Any]]) -> None:
    """Tell the held-out metric of the integer network, and whether much was lost on the way to it."""
    *searched, last = history
    before, after = last["held_out_before"], last["held_out"]
    job.reporter.event("integers", **last)
    job.reporter.say(
        f"in integers  held-out {before:.2f} before the last steps, {after:.2f} after"
        f"{'' if last['accepted'] else '; they were undone'}"
    )
    kept = [row["held_out"] for row in searched if row.get("accepted", not row.get("searching"))]
    lost = (max(kept) if "epoch" in searched[-1] else kept[-1]) - max(before, after)
    if lost > _MUCH:
        job.reporter.warn(
            f"the integer network is {lost:.2f} points below the fake-quantized one on held-out data; more "
            "bits, more --epochs or another --lr may help"
        )


def _last_steps(job: Job) -> dict[str, Any]:
    """How long, and how fast, the network is trained in integers."""
    options = job.options
    if options.method == "impq":
        return {"epochs": min(_IMPQ_EPOCHS, options.epochs), "lr": _IMPQ_LR_SHARE * options.lr}
    # The rest of the schedule that the method has begun.
    return {"epochs": INTEGER_SHARE * options.epochs, "lr": options.lr, "span": (1 - INTEGER_SHARE, 1.0)}


def _fold(job: Job, network: fx.GraphModule) -> tuple[ir.Model, Plan]:
    """The folded normal graph with the trained weights, and the plan in units of the folded weights.

    Folding multiplies kernel o by ``gamma / sqrt(var + eps)``. Its scale grows by the magnitude of that
    factor and its codes keep their values, up to the sign. Offsets that nothing can fold are snapped.
    """
    trained = job.model.clone()
    write_parameters(trained, parameter_arrays(network))
    with np.errstate(over="ignore", invalid="ignore"):  # what is too large is said below
        factors, folded = batch_norm_factors(trained), pipelines.fold_batch_norm(trained)
    _check_finite(folded)
    plan = read_plan(network)
    _say_turned(job, plan, factors)
    weights = [_rescaled(entry, factors.get(entry.name)) for entry in plan.weights]
    return folded, settled(folded, snap(folded, plan.replaced(weights=weights)))


def _check_finite(folded: ir.Model) -> None:
    for name, value in folded.graph.initializers.items():
        numbers = array(value)
        if numbers is not None and numbers.dtype == np.float32 and not np.isfinite(numbers).all():
            raise TrainingError(
                f"The trained network cannot be folded: {name!r} becomes infinite or NaN. Give a smaller "
                "--lr, or start from a network that is trained."
            )


def _say_turned(job: Job, plan: Plan, factors: Mapping[str, NDArray[np.float32]]) -> None:
    """On the full grid, the largest negative code of a kernel whose sign turns has no counterpart."""
    turned = sum(
        int((factors[entry.name] < 0).sum())
        for entry in plan.weights
        if entry.grid is Grid.FULL and entry.name in factors
    )
    if turned:
        job.reporter.say(
            f"{turned} kernels changed the sign of their BatchNormalization in training; their largest "
            "code is clamped, and trained on in integers"
        )


def _rescaled(entry: WeightQuant, factor: NDArray[np.float32] | None) -> WeightQuant:
    if factor is None or entry.scale is None:
        return entry
    scale = np.asarray(entry.scale, np.float32) * np.abs(factor)
    # A kernel times 0 is all zeros, which no odd code is: it gets no bits, and codes 0.
    dead = scale == 0
    return entry.model_copy(
        update={
            "bits": tuple(0 if gone else bits for bits, gone in zip(entry.bits, dead, strict=True)),
            "scale": tuple(np.where(dead, 1, scale).astype(float).tolist()),
        }
    )
