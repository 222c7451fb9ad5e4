"""Put the quantizers of a plan into a graph, and read them back as a plan."""

from __future__ import annotations

__all__ = [
    "activation_quantizers",
    "attach",
    "fix_scales",
    "fixed_activation",
    "plain_activations",
    "plain_weights",
    "read_plan",
    "real_weights",
    "restrain_scales",
    "weight_quantizers",
]

import operator
from collections.abc import Callable, Collection

import torch
from torch import Tensor, fx, nn

from mpqtool.passes.errors import PlanError
from mpqtool.passes.functions import hard_swish_reach
from mpqtool.passes.placement import POOLS
from mpqtool.passes.plan import ActivationQuant, Plan, WeightQuant

from .activation import ActivationQuantizer
from .dorefa import DorefaWeightQuantizer
from .learned_offset import OffsetQuantizer
from .learned_weight import LsqWeightQuantizer
from .offset import hand_on_offset
from .pact import PactQuantizer
from .weight import WeightQuantizer

_PREFIX = "quantizers"
_LEFT_FLOAT = "left_float"


def fitted_weight(entry: WeightQuant, weight: Tensor) -> nn.Module:
    """A quantizer with the scales of the plan, or without any until they are fitted."""
    quantizer = WeightQuantizer(
        entry.name, entry.bits, entry.grid, elements=weight[0].numel(), shift=entry.shift
    )
    if entry.scale is not None:
        quantizer.scale.copy_(torch.tensor(entry.scale))
    return quantizer


def fixed_activation(entry: ActivationQuant, source: fx.Node) -> nn.Module:
    """A quantizer with the zero point and offset of the plan, or without any until it is calibrated."""
    users = [user.meta.get("onnx_op") for user in source.users]
    quantizer = ActivationQuantizer(
        entry.name,
        entry.bits,
        zero_point=entry.zero_point,
        nonnegative=entry.zero_point == 0,
        offset=entry.offset,
        padding=entry.padding,
        carried=source.meta.get("onnx_op") in POOLS,
        before_hard_swish="HardSwish" in users and _may_be_rounded(entry),
        softmax_axis=_softmax_axis(source),
    )
    if entry.scale is not None and entry.zero_point is not None:
        quantizer.set_numbers(scale=entry.scale, zero_point=entry.zero_point)
    return quantizer


def attach(
    graph_module: fx.GraphModule,
    plan: Plan,
    *,
    make_weight: Callable[[WeightQuant, Tensor], nn.Module] = fitted_weight,
    make_activation: Callable[[ActivationQuant, fx.Node], nn.Module] = fixed_activation,
) -> fx.GraphModule:
    """Insert a quantizer behind every weight and value that the plan names, in place.

    Args:
        graph_module: An imported graph; ``node.meta["onnx_name"]`` is the join key.
        plan: What to quantize. Names and kernel counts must be those of the graph.
        make_weight: Makes the quantizer of a weight, given its plan entry and the weight.
        make_activation: Makes that of a value, given its plan entry and the node that computes it.

    Returns:
        The same module, with submodules ``quantizers.w0 ...`` and ``quantizers.a0 ...``.

    Raises:
        PlanError: The plan names a tensor the graph does not have, or another number of kernels.
    """
    graph = graph_module.graph
    by_name = {node.meta["onnx_name"]: node for node in graph.nodes if "onnx_name" in node.meta}
    parameters = dict(graph_module.named_parameters())
    names = [*(weight.name for weight in plan.weights), *(value.name for value in plan.activations)]
    missing = [name for name in names if name not in by_name]
    if missing:
        more = f" and {len(missing) - 1} more" if missing[1:] else ""
        raise PlanError(
            f"The plan names {missing[0]!r}{more}, which the model does not have. Use the plan of "
            "this model, or leave --plan out to make one."
        )
    graph_module.add_submodule(_PREFIX, nn.Module())
    graph_module.meta[_LEFT_FLOAT] = plan.left_float
    for index, weight in enumerate(plan.weights):
        kernels = len(parameters[weight.name])
        if kernels != len(weight.bits):
            raise PlanError(
                f"The plan has {len(weight.bits)} kernels for weight {weight.name!r}, the model has "
                f"{kernels}. Use the plan of this model."
            )
        made = make_weight(weight, parameters[weight.name])
        _insert(graph_module, by_name[weight.name], f"{_PREFIX}.w{index}", made)
    for index, activation in enumerate(plan.activations):
        source = by_name[activation.name]
        made = make_activation(activation, source)
        quantized = _insert(graph_module, source, f"{_PREFIX}.a{index}", made)
        if isinstance(made, OffsetQuantizer):
            _hand_on_learned(graph, quantized)
        elif activation.offset:
            hand_on_offset(graph, quantized, activation.offset, activation.padding)
    graph.lint()
    graph_module.recompile()
    return graph_module


def _softmax_axis(source: fx.Node) -> int | None:
    """The axis of the first Softmax that uses a value."""
    for user in source.users:
        if user.meta.get("onnx_op") == "Softmax" and user.target is torch.softmax:
            return int(user.args[1])  # type: ignore[arg-type]  # a number, as the importer writes it
    return None


def _may_be_rounded(activation: ActivationQuant) -> bool:
    """Whether the scale may be chosen for HardSwish: not one that others hang on, or that the plan says."""
    if activation.scale is None or activation.zero_point is None:
        return True
    return hard_swish_reach(activation.scale, activation.zero_point) is not None


def _insert(graph_module: fx.GraphModule, source: fx.Node, target: str, quantizer: nn.Module) -> fx.Node:
    """Let every user of ``source`` read it through the quantizer; its node."""
    graph_module.add_submodule(target, quantizer)
    with graph_module.graph.inserting_after(source):
        node = graph_module.graph.call_module(target, (source,))
    source.replace_all_uses_with(node, delete_user_cb=lambda user: user is not node)
    return node


def _hand_on_learned(graph: fx.Graph, quantized: fx.Node) -> None:
    """Take apart what an ``OffsetQuantizer`` gives: the value, and the offset that it lacks."""
    users = tuple(quantized.users)
    with graph.inserting_after(quantized):
        offset = graph.call_function(operator.getitem, (quantized, 1))
        value = graph.call_function(operator.getitem, (quantized, 0))
    for user in users:
        user.replace_input_with(quantized, value)
    hand_on_offset(graph, value, offset, "offset")


def weight_quantizers(module: nn.Module) -> list[WeightQuantizer | LsqWeightQuantizer]:
    """Every weight quantizer, in plan order."""
    return [m for m in module.modules() if isinstance(m, WeightQuantizer | LsqWeightQuantizer)]


def activation_quantizers(module: nn.Module) -> list[ActivationQuantizer | OffsetQuantizer | PactQuantizer]:
    """Every activation quantizer, in plan order."""
    kinds = ActivationQuantizer | OffsetQuantizer | PactQuantizer
    return [m for m in module.modules() if isinstance(m, kinds)]


def plain_weights(module: nn.Module) -> list[WeightQuantizer]:
    """The quantizers of weights whose scales are fitted, not learned; all of a folded network."""
    return [q for q in weight_quantizers(module) if isinstance(q, WeightQuantizer)]


def plain_activations(module: nn.Module) -> list[ActivationQuantizer]:
    """The quantizers of activations that have neither a learned offset nor a learned clip."""
    return [q for q in activation_quantizers(module) if isinstance(q, ActivationQuantizer)]


def fix_scales(module: nn.Module, inputs: Collection[str]) -> None:
    """Train no scale of a graph input: data do not change, and 8 bits leave nothing to learn."""
    for quantizer in plain_activations(module):
        if quantizer.name in inputs:
            quantizer.learned_scale.requires_grad_(False)


def restrain_scales(module: nn.Module) -> None:
    """Limit what a step of the optimizer did to every learned scale."""
    for quantizer in module.modules():
        if isinstance(quantizer, ActivationQuantizer | OffsetQuantizer | PactQuantizer | LsqWeightQuantizer):
            quantizer.restrain_scale()


@torch.no_grad()
def real_weights(module: nn.Module) -> dict[str, Tensor]:
    """The weights that are quantized in another form than they are trained in, as they are in that form."""
    parameters = dict(module.named_parameters())
    return {
        q.name: q.real(parameters[q.name])
        for q in weight_quantizers(module)
        if isinstance(q, DorefaWeightQuantizer)
    }


def read_plan(module: fx.GraphModule) -> Plan:
    """The plan as the quantizers stand now."""
    return Plan(
        weights=tuple(q.to_plan() for q in weight_quantizers(module)),
        activations=tuple(q.to_plan() for q in activation_quantizers(module)),
        left_float=module.meta[_LEFT_FLOAT],
    )
