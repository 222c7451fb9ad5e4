"""Groups: the sets of values that share a bit-width, and how many bits all of them have."""

from __future__ import annotations

__all__ = [
    "Activation",
    "Group",
    "Weights",
    "activation_bits",
    "effective_bits",
    "least_bits",
    "weight_bits",
    "weight_groups",
]

import dataclasses
from collections.abc import Collection, Sequence

import torch
from torch import Tensor, fx

from mpqtool.passes.plan import Grid
from mpqtool.quantizers import ActivationQuantizer, WeightQuantizer
from mpqtool.quantizers.attach import activation_quantizers, weight_quantizers

LEAST_ACTIVATION_BITS = 2


@dataclasses.dataclass(frozen=True, eq=False)
class Weights:
    """Weights that share a bit-width: one kernel, one layer, or all of the network.

    Kernels that have no bit to give are no part of it. What began with several widths, as in a plan, keeps
    the differences: every kernel loses a bit.

    Attributes:
        members: The quantizers.
        kernel: The kernel of the one member that it is; None: all kernels of all members.
        prune: Whether the last bit may go too.
    """

    members: Sequence[WeightQuantizer]
    kernel: int | None = None
    prune: bool = False

    @property
    def name(self) -> str:
        """What tells it from the other groups of a search."""
        first = self.members[0].name
        return first if self.kernel is None else f"{first}[{self.kernel}]"

    @property
    def kernels(self) -> list[tuple[WeightQuantizer, Tensor]]:
        """Each member, and which of its kernels have a bit to give: indices, on the CPU."""
        if self.kernel is None:
            return [
                (q, (q.bits > least_bits(q, prune=self.prune)).cpu().nonzero()[:, 0]) for q in self.members
            ]
        (member,) = self.members  # of many thousand such groups: only its own width is looked at
        able = int(member.bits[self.kernel]) > least_bits(member, prune=self.prune)
        return [(member, torch.tensor([self.kernel] if able else [], dtype=torch.long))]

    @property
    def is_empty(self) -> bool:
        """Whether none of it has a bit to give."""
        return not any(len(able) for _, able in self.kernels)

    def take_a_bit(self) -> None:
        for member, able in self.kernels:
            member.bits[able.to(member.bits.device)] -= 1


@dataclasses.dataclass(frozen=True, eq=False)
class Activation:
    """One quantized value."""

    quantizer: ActivationQuantizer

    @property
    def name(self) -> str:
        """What tells it from the other groups of a search."""
        return str(self.quantizer.name)

    @property
    def kernels(self) -> list[tuple[ActivationQuantizer, Tensor]]:
        """The quantizer, and whether it has a bit to give, ``()``: as an index, all of its width."""
        return [(self.quantizer, (self.quantizer.bits > LEAST_ACTIVATION_BITS).cpu())]

    @property
    def is_empty(self) -> bool:
        """Whether it has no bit to give."""
        return int(self.quantizer.bits) <= LEAST_ACTIVATION_BITS

    def take_a_bit(self) -> None:
        self.quantizer.bits -= 1


Group = Weights | Activation


def least_bits(quantizer: WeightQuantizer, *, prune: bool = False) -> int:
    """Bits that a kernel keeps: only the odd grid has codes of one bit, the last before none."""
    if quantizer.grid is not Grid.ODD:
        return 2
    return 0 if prune else 1


def weight_groups(
    quantizers: Sequence[WeightQuantizer], granularity: str, *, prune: bool = False
) -> list[Weights]:
    """The groups that still have a bit to give.

    Args:
        quantizers: Of all weights.
        granularity: ``kernel``, ``layer`` or ``network``.
        prune: Whether the last bit may go too.
    """
    if granularity == "kernel":
        return [
            Weights([quantizer], index, prune)
            for quantizer in quantizers
            for index, able in enumerate((quantizer.bits > least_bits(quantizer, prune=prune)).tolist())
            if able
        ]
    members = [quantizers] if granularity == "network" else [[quantizer] for quantizer in quantizers]
    found = [Weights(these, prune=prune) for these in members]
    return [group for group in found if not group.is_empty]


def weight_bits(network: fx.GraphModule) -> tuple[int, int]:
    """Bits and elements of all weights."""
    quantizers = weight_quantizers(network)
    bits = sum(int(q.bits.sum()) * q.elements for q in quantizers)
    return bits, sum(len(q.bits) * q.elements for q in quantizers)


def activation_bits(network: fx.GraphModule, free: Collection[str] = ()) -> tuple[int, int]:
    """Bits and elements of the values that layers multiply, one sample.

    Args:
        network: The graph with attached quantizers.
        free: Names of the values that no layer multiplies.
    """
    quantizers = [q for q in activation_quantizers(network) if q.name not in free]
    return sum(int(q.bits) * q.elements for q in quantizers), sum(q.elements for q in quantizers)


def effective_bits(network: fx.GraphModule, free: Collection[str] = ()) -> dict[str, float]:
    """Mean bits of an element: ``weights_eff``, and ``activations_eff`` of the values that layers multiply.

    Args:
        network: The graph with attached quantizers.
        free: Names of the values that no layer multiplies.
    """
    weights, activations = weight_bits(network), activation_bits(network, free)
    return {
        "weights_eff": weights[0] / weights[1],
        "activations_eff": activations[0] / max(activations[1], 1),
    }
