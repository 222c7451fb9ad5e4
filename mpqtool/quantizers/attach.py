"""Put the quantizers of a plan into a graph, and read them back as a plan."""

from __future__ import annotations

__all__ = ["activation_quantizers", "attach", "read_plan", "weight_quantizers"]

import torch
from torch import fx, nn

from mpqtool.passes.errors import PlanError
from mpqtool.passes.functions import hard_swish_reach
from mpqtool.passes.placement import POOLS
from mpqtool.passes.plan import ActivationQuant, Plan

from .activation import ActivationQuantizer
from .offset import hand_on_offset
from .weight import WeightQuantizer

_PREFIX = "quantizers"


def attach(graph_module: fx.GraphModule, plan: Plan) -> fx.GraphModule:
    """Insert a quantizer behind every weight and value that the plan names, in place.

    Numbers the plan already has are taken over; the others wait for ``fit`` and calibration.

    Args:
        graph_module: An imported graph; ``node.meta["onnx_name"]`` is the join key.
        plan: What to quantize. Names and kernel counts must be those of the graph.

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
    for index, weight in enumerate(plan.weights):
        kernels = len(parameters[weight.name])
        if kernels != len(weight.bits):
            raise PlanError(
                f"The plan has {len(weight.bits)} kernels for weight {weight.name!r}, the model has "
                f"{kernels}. Use the plan of this model."
            )
        quantizer = WeightQuantizer(
            weight.name, weight.bits, weight.grid, elements=parameters[weight.name][0].numel()
        )
        if weight.scale is not None:
            quantizer.scale.copy_(torch.tensor(weight.scale))
        _insert(graph_module, by_name[weight.name], f"{_PREFIX}.w{index}", quantizer)
    for index, activation in enumerate(plan.activations):
        users = [user.meta.get("onnx_op") for user in by_name[activation.name].users]
        made = ActivationQuantizer(
            activation.name,
            activation.bits,
            zero_point=activation.zero_point,
            tie=activation.tie,
            nonnegative=activation.zero_point == 0,
            offset=activation.offset,
            padding=activation.padding,
            carried=by_name[activation.name].meta.get("onnx_op") in POOLS,
            before_hard_swish="HardSwish" in users and _may_be_rounded(activation),
            softmax_axis=_softmax_axis(by_name[activation.name]),
        )
        source = _insert(graph_module, by_name[activation.name], f"{_PREFIX}.a{index}", made)
        if activation.offset:
            hand_on_offset(graph, source, activation.offset, activation.padding)
    _share_bases(graph_module, plan)
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
        return activation.tie is None
    return hard_swish_reach(activation.scale, activation.zero_point) is not None


def _insert(graph_module: fx.GraphModule, source: fx.Node, target: str, quantizer: nn.Module) -> fx.Node:
    """Let every user of ``source`` read it through the quantizer; its node."""
    graph_module.add_submodule(target, quantizer)
    with graph_module.graph.inserting_after(source):
        node = graph_module.graph.call_module(target, (source,))
    source.replace_all_uses_with(node, delete_user_cb=lambda user: user is not node)
    return node


def _share_bases(graph_module: fx.GraphModule, plan: Plan) -> None:
    """Give the quantizers of a tie one ``base``, and take over the plan's scales."""
    shared: dict[str, nn.Parameter] = {}
    for quantizer, entry in zip(activation_quantizers(graph_module), plan.activations, strict=True):
        if entry.tie is not None:
            quantizer.base = shared.setdefault(entry.tie, quantizer.base)
        if entry.scale is None or entry.zero_point is None:
            continue
        # The first of a tie fixes the base, the others follow with exact powers of two.
        base = float(quantizer.base.detach()) if not quantizer.base.isnan() else entry.scale
        exponent = round(float(torch.log2(torch.tensor(entry.scale / base))))
        quantizer.set_numbers(base=base, exponent=exponent, zero_point=entry.zero_point)


def weight_quantizers(module: nn.Module) -> list[WeightQuantizer]:
    """Every weight quantizer, in plan order."""
    return [m for m in module.modules() if isinstance(m, WeightQuantizer)]


def activation_quantizers(module: nn.Module) -> list[ActivationQuantizer]:
    """Every activation quantizer, in plan order."""
    return [m for m in module.modules() if isinstance(m, ActivationQuantizer)]


def read_plan(module: nn.Module) -> Plan:
    """The plan as the quantizers stand now."""
    return Plan(
        weights=tuple(q.to_plan() for q in weight_quantizers(module)),
        activations=tuple(q.to_plan() for q in activation_quantizers(module)),
    )
