"""From the trained network to the one that is shipped: BatchNormalization folded, trained in integers."""

from __future__ import annotations

__all__ = ["Finished", "apply_plan", "finish"]

import dataclasses
import math

import numpy as np
import onnx_ir as ir
import torch
from numpy.typing import NDArray
from torch import Tensor, fx

from mpqtool.importer import import_graph
from mpqtool.importer.writeback import write_parameters
from mpqtool.passes import pipelines
from mpqtool.passes.normalize.fold_batch_norm import batch_norm_factors
from mpqtool.passes.plan import Plan, WeightQuant
from mpqtool.passes.quantize import raise_dead_scales

from .checkpoint import Checkpoint, tensors_under
from .job import Job
from .methods.impq import SAMPLES
from .quantizers.attach import activation_quantizers, attach, read_plan, weight_quantizers
from .quantizers.calibrate import calibrate
from .search import make_trainer, search
from .simulate import IntegerSimulation

_EPOCHS, _LR_SHARE = 1, 0.3
"""Epochs in integers, and their peak learning rate as a share of ``--lr``."""


@dataclasses.dataclass(frozen=True)
class Finished:
    """A network ready to be written.

    Attributes:
        network: Folded, with quantizers; float arithmetic (fake quantization).
        simulation: The same network in integers.
        model: The folded normal graph with the trained weights, each exactly ``scale * code``.
        plan: Every width, scale and zero point.
        history: One row per iteration of the method.
    """

    network: fx.GraphModule
    simulation: IntegerSimulation
    model: ir.Model
    plan: Plan
    history: list[dict[str, object]]


def finish(job: Job) -> Finished:
    """Search, fold BatchNormalization, and train the last epochs in integers on the whole training split."""
    resumed = job.resumed("finish")
    if resumed is None:
        network, history = search(job)
        model, plan = _fold(job, network)
    else:
        model, history = job.folded, resumed.state["history"]
        plan = Plan.from_json(resumed.state["plan"], source="the checkpoint")
    network = attach(import_graph(model), plan)
    if resumed is not None:
        network.load_state_dict(tensors_under("network/", resumed.tensors))
    trainer = make_trainer(job, job.data.train)

    def save(epoch: int, momenta: dict[str, Tensor]) -> None:
        tensors = {f"network/{name}": tensor for name, tensor in network.state_dict().items()}
        state = {
            "epoch": epoch, "epochs_begun": trainer.epochs_begun, "history": history, "plan": plan.to_json(),
        }  # fmt: skip
        job.save("finish", Checkpoint(tensors | momenta, state))

    simulation = IntegerSimulation(network)
    lr = _LR_SHARE * job.options.lr
    epochs = min(_EPOCHS, job.options.epochs)
    trainer.fit(simulation, epochs=epochs, lr=lr, label="in integers", resume=resumed, on_epoch=save)
    return _freeze(network, simulation, model, history)


def apply_plan(job: Job) -> Finished:
    """Use the widths and scales of ``--plan`` on the weights of the model; fit what the plan leaves open."""
    network = attach(import_graph(job.folded), job.plan)
    parameters = dict(network.named_parameters())
    for quantizer in weight_quantizers(network):
        if bool(quantizer.scale.isnan().any()):
            quantizer.fit(parameters[quantizer.name])
    unset = [q for q in activation_quantizers(network) if bool(q.base.isnan()) or int(q.zero_point) < 0]
    if unset:
        columns = [torch.from_numpy(a[:SAMPLES]) for a in job.tuning.inputs.values()]
        calibrate(network, [columns], unset)
    return _freeze(network, IntegerSimulation(network), job.folded, [])


def _fold(job: Job, network: fx.GraphModule) -> tuple[ir.Model, Plan]:
    """The folded normal graph with the trained weights, and the plan in units of the folded weights.

    Folding multiplies kernel o by ``gamma / sqrt(var + eps)``. The grids are symmetric, so its scale
    grows by the magnitude of that factor and its codes keep their values, up to the sign.
    """
    trained = job.model.clone()
    write_parameters(trained, _arrays(network))
    factors, plan = batch_norm_factors(trained), read_plan(network)
    weights = [_rescaled(entry, factors.get(entry.name)) for entry in plan.weights]
    activations = [entry.model_copy(update={"scale": _short(entry.scale)}) for entry in plan.activations]
    folded = pipelines.fold_batch_norm(trained)
    return folded, raise_dead_scales(folded, plan.replaced(weights=weights, activations=activations))


def _short(scale: float | None) -> float | None:
    """The nearest number of 12 significant bits.

    Codes times such a scale are exact in float32, and so are sums of a few of them: the QDQ file then
    finds the same ties in its float sums that the integers have.
    """
    if scale is None:
        return None
    mantissa, exponent = math.frexp(scale)
    return math.ldexp(round(mantissa * 2**12), exponent - 12)


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


def _freeze(
    network: fx.GraphModule, simulation: IntegerSimulation, model: ir.Model, history: list[dict[str, object]]
) -> Finished:
    """Write the weights into the graph as they will be read back: exactly ``scale * code``."""
    network.cpu()
    with torch.no_grad():
        parameters = dict(network.named_parameters())
        for quantizer in weight_quantizers(network):
            weight = parameters[quantizer.name]
            weight.copy_(quantizer(weight))
    model = model.clone()
    write_parameters(model, _arrays(network))
    return Finished(network, simulation, model, read_plan(network), history)


def _arrays(network: fx.GraphModule) -> dict[str, NDArray[np.float32]]:
    """Parameters and statistics by initializer name; the quantizers' own tensors left out."""
    return {
        name: tensor.detach().cpu().numpy()
        for name, tensor in network.state_dict().items()
        if not name.startswith("quantizers.")
    }
