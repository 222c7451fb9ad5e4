"""Which of the four parametrizations of LSQ+ each activation has."""

from __future__ import annotations

__all__ = ["attach_lsq", "configurations", "with_zero_points"]

from collections.abc import Mapping

from torch import Tensor, fx, nn

from mpqtool.passes.plan import ActivationQuant, Plan, WeightQuant
from mpqtool.passes.roles import Role
from mpqtool.quantizers import LsqWeightQuantizer, OffsetQuantizer
from mpqtool.quantizers.attach import attach, fixed_activation

_LEARNED_OFFSET = (3, 4)
_SIGNED = (2, 3)


def configurations(roles: Mapping[str, Role], config: str, *, offsets: bool) -> dict[str, int]:
    """The configuration of each activation, 1 to 4; Bhalgat et al., LSQ+, table 1 and section 5.1.

    Values without an activation function before them (linear bottlenecks) have configuration 2, whatever is
    asked for. ``auto``: 4 behind Swish-like functions, or 1 without offsets; 1 where no value is negative.

    Args:
        roles: Of the activations that have a configuration, by name.
        config: ``auto``, or the number.
        offsets: Whether offsets are learned (LSQ+) or not (LSQ).
    """
    by_role = {
        Role.SIGNED: 2,
        Role.NONNEGATIVE: 1 if config == "auto" else int(config),
        Role.SKEWED: (4 if offsets else 1) if config == "auto" else int(config),
    }
    return {name: by_role[role] for name, role in roles.items()}


def with_zero_points(plan: Plan, configs: Mapping[str, int]) -> Plan:
    """The plan with the zero points of configurations 1 and 2, which have no offset."""

    def entry(activation: ActivationQuant) -> ActivationQuant:
        config = configs.get(activation.name)
        if config is None or config in _LEARNED_OFFSET:
            return activation
        zero_point = 2 ** (activation.bits - 1) if config in _SIGNED else 0
        return activation.model_copy(update={"zero_point": zero_point})

    return plan.replaced(activations=map(entry, plan.activations))


def attach_lsq(
    graph_module: fx.GraphModule,
    plan: Plan,
    configs: Mapping[str, int],
    *,
    per_kernel: bool,
    learned_offset: bool = True,
) -> fx.GraphModule:
    """Insert the quantizers that LSQ and LSQ+ train, in place, as ``attach`` does.

    Args:
        graph_module: An imported graph.
        plan: What to quantize.
        configs: Of the activations that have one, by name.
        per_kernel: Whether each kernel has a scale of its own.
        learned_offset: Whether offsets are learned; else they keep what the initialization gives.
    """

    def make_weight(entry: WeightQuant, weight: Tensor) -> nn.Module:
        return LsqWeightQuantizer(
            entry.name,
            entry.bits[0],
            entry.grid,
            kernels=len(weight),
            elements=weight[0].numel(),
            per_kernel=per_kernel,
        )

    def make_activation(entry: ActivationQuant, source: fx.Node) -> nn.Module:
        config = configs.get(entry.name)
        if config not in _LEARNED_OFFSET:
            return fixed_activation(entry, source)
        low = -(2 ** (entry.bits - 1)) if config in _SIGNED else 0
        return OffsetQuantizer(entry.name, entry.bits, low=low, learned=learned_offset)

    plan = with_zero_points(plan, configs)
    return attach(graph_module, plan, make_weight=make_weight, make_activation=make_activation)
