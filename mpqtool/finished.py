"""A network ready to be written, and how its numbers become those of the files."""

from __future__ import annotations

__all__ = ["Finished", "freeze", "leave_float", "parameter_arrays", "settled", "short"]

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx_ir as ir
import torch
from numpy.typing import NDArray
from torch import fx

from mpqtool.importer import import_graph
from mpqtool.importer.writeback import write_parameters
from mpqtool.passes.plan import Plan
from mpqtool.passes.quantize import raise_dead_scales, with_exact_sums, with_fine_biases

from .quantizers.attach import attach, plain_weights, read_plan, real_weights
from .simulate import IntegerSimulation


@dataclasses.dataclass(frozen=True)
class Finished:
    """A network ready to be written.

    Attributes:
        network: Folded, with quantizers; float arithmetic (fake quantization).
        simulation: The same network in integers.
        model: The folded normal graph with the trained weights, each exactly ``scale * code``.
        plan: Every width, scale and zero point.
        history: One row per iteration of the method.
        points: One row per plan that was tried: what it costs, and its metric on held-out data.
        budgets: What was asked for, what is used, and what binds; empty where nothing was.
    """

    network: fx.GraphModule
    simulation: IntegerSimulation
    model: ir.Model
    plan: Plan
    history: list[dict[str, Any]]
    points: list[dict[str, Any]] = dataclasses.field(default_factory=list)
    budgets: dict[str, Any] = dataclasses.field(default_factory=dict)


def freeze(
    network: fx.GraphModule, simulation: IntegerSimulation, model: ir.Model, history: list[dict[str, Any]]
) -> Finished:
    """Write the weights into the graph as they will be read back: exactly ``scale * code``."""
    network.cpu()
    with torch.no_grad():
        parameters = dict(network.named_parameters())
        for quantizer in plain_weights(network):
            weight = parameters[quantizer.name]
            weight.copy_(quantizer(weight))
            quantizer.factor.fill_(1)
    model = model.clone()
    write_parameters(model, parameter_arrays(network))
    return Finished(network, simulation, model, read_plan(network), history)


def leave_float(finished: Finished, reasons: Mapping[str, str]) -> Finished:
    """The same network with these values in float; weights stay what they are."""
    network = attach(import_graph(finished.model), finished.plan.without(reasons))
    fewer = freeze(network, IntegerSimulation(network), finished.model, finished.history)
    return dataclasses.replace(fewer, points=finished.points, budgets=finished.budgets)


def parameter_arrays(network: fx.GraphModule) -> dict[str, NDArray[np.float32]]:
    """Parameters and statistics by initializer name, weights as their codes stand for them."""
    tensors = {
        name: tensor for name, tensor in network.state_dict().items() if not name.startswith("quantizers.")
    }
    return {name: tensor.cpu().numpy() for name, tensor in (tensors | real_weights(network)).items()}


def short(scale: float | None) -> float | None:
    """The nearest number of 12 significant bits.

    Codes times such a scale are exact in float32, and so are sums of a few of them: the QDQ file then
    finds the same ties in its float sums that the integers have.
    """
    if scale is None:
        return None
    mantissa, exponent = math.frexp(scale)
    return math.ldexp(round(mantissa * 2**12), exponent - 12)


def settled(folded: ir.Model, plan: Plan) -> Plan:
    """The plan with its numbers moved, by next to nothing, to where files and integers agree on them.

    Args:
        folded: Normal graph with BatchNormalization folded.
        plan: Complete, without offsets that cannot be folded.
    """
    activations = [entry.model_copy(update={"scale": short(entry.scale)}) for entry in plan.activations]
    plan = plan.replaced(activations=activations)
    return with_fine_biases(folded, raise_dead_scales(folded, with_exact_sums(folded, plan)))
