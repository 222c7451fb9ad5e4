"""What has a width of its own: the weights of a network, a layer or a kernel, and activations."""

from __future__ import annotations

__all__ = ["Hardware", "LayerCost", "Quantizer", "Variable", "grouped"]

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Literal

from torch import Tensor, fx

from mpqtool.quantizers import DorefaWeightQuantizer, PactQuantizer
from mpqtool.quantizers.attach import activation_quantizers, weight_quantizers

from .widths import Width

_FLOAT_BITS = 32

Quantizer = DorefaWeightQuantizer | PactQuantizer


@dataclasses.dataclass(eq=False)
class Variable:
    """One relaxed width, and what has it.

    Attributes:
        name: What a log calls it.
        kind: Weights or activations.
        members: The quantizers that have this width; kernels of 0 bits stay so.
        granularity: What has it: ``network``, ``layer`` or ``kernel``.
        kernel: The kernel of the one quantizer that has it; None: all.
        width: The width; set by the search.
    """

    name: str
    kind: Literal["weights", "activations"]
    members: Sequence[Quantizer]
    granularity: str
    kernel: int | None = None
    width: Width = dataclasses.field(init=False)

    @property
    def bits(self) -> int:
        """The most bits that a member has now."""
        return max(int(self._part(member).max()) for member in self.members)

    @property
    def elements(self) -> int:
        """Numbers that have this width."""
        if self.kernel is not None:
            return self.members[0].elements
        return sum(member.elements * max(member.bits.numel(), 1) for member in self.members)

    def use(self, bits: int) -> None:
        """Give the members so many bits."""
        for member in self.members:
            part = self._part(member)
            part.masked_fill_(part > 0, bits)

    def _part(self, member: Quantizer) -> Tensor:
        """A view of the member's bits."""
        return member.bits if self.kernel is None else member.bits[self.kernel]


@dataclasses.dataclass(frozen=True)
class LayerCost:
    """What one layer weighs in the hardware term, ``sum share * B_w * B_a``.

    Attributes:
        weight: The plan entry of its weight.
        input: The plan entry that owns the codes it multiplies; None: they are float, or nobody owns them.
        share: Of all layers that are counted; these add up to 1.
    """

    weight: str
    input: str | None
    share: float


class Hardware:
    """The hardware term, ``sum share * B_w * B_a`` over layers; uniform widths make it ``B_w * B_a``.

    Source: Gernigon et al., AdaQAT, section III-B; with the layers' shares, its generalization to layers.

    Args:
        costs: What each layer weighs; shares add up to 1.
        network: With quantizers.
    """

    def __init__(self, costs: Sequence[LayerCost], network: fx.GraphModule) -> None:
        self.costs = costs
        quantizers = [*weight_quantizers(network), *activation_quantizers(network)]
        self._quantizers = {quantizer.name: quantizer for quantizer in quantizers}
        self._by_weight: dict[str, list[tuple[float, str | None]]] = {}
        self._by_input: dict[str, list[tuple[float, str | None]]] = {}
        for cost in costs:
            self._by_weight.setdefault(cost.weight, []).append((cost.share, cost.input))
            if cost.input is not None:
                self._by_input.setdefault(cost.input, []).append((cost.share, cost.weight))

    def bits(self) -> dict[str, float]:
        """The present widths of what is multiplied, means over kernels."""
        return {name: float(q.bits.double().mean()) for name, q in self._quantizers.items()}

    def value(self) -> float:
        """The term at the present widths."""
        bits = self.bits()
        return sum(c.share * bits[c.weight] * _of(c.input, bits) for c in self.costs)

    def share(self, variable: Variable) -> float:
        """What part of the term a variable is in, 0 to 1."""
        whole = sum(share for share, _ in self._others(variable))
        return whole if variable.kernel is None else whole / len(variable.members[0].bits)

    def slope(self, variable: Variable, bits: Mapping[str, float] | None = None) -> float:
        """The derivative by a width as a share of its layers: mean bits of what is multiplied with it.

        Args:
            variable: What has the width.
            bits: What ``bits`` gives, if it is there already.
        """
        others, bits = self._others(variable), bits or self.bits()
        return sum(share * _of(name, bits) for share, name in others) / sum(share for share, _ in others)

    def prices(self, kind: Literal["weights", "activations"]) -> dict[str, float]:
        """What a bit of each weight, or of each activation, adds to the term, by plan entry."""
        found, bits = self._by_weight if kind == "weights" else self._by_input, self.bits()
        return {name: sum(share * _of(other, bits) for share, other in of) for name, of in found.items()}

    def learned(self) -> tuple[list[DorefaWeightQuantizer], list[PactQuantizer]]:
        """The weights and the activations that are in the term."""
        names = dict.fromkeys([c.weight for c in self.costs] + [c.input for c in self.costs if c.input])
        found = [self._quantizers[name] for name in names if name in self._quantizers]
        return (
            [q for q in found if isinstance(q, DorefaWeightQuantizer)],
            [q for q in found if isinstance(q, PactQuantizer)],
        )

    def _others(self, variable: Variable) -> list[tuple[float, str | None]]:
        """Share and name of what is multiplied with a variable."""
        which = self._by_weight if variable.kind == "weights" else self._by_input
        return [other for member in variable.members for other in which.get(member.name, ())]


def _of(name: str | None, bits: Mapping[str, float]) -> float:
    return _FLOAT_BITS if name is None else bits.get(name, _FLOAT_BITS)


def grouped(
    kind: Literal["weights", "activations"], members: Sequence[Quantizer], granularity: str
) -> list[Variable]:
    """The variables of some quantizers, without widths.

    Args:
        kind: What the members quantize.
        members: Quantizers whose widths are learned.
        granularity: ``network``, ``layer`` or ``kernel``.
    """
    if granularity == "network":
        return [Variable(kind, kind, members, granularity)] if members else []
    if granularity == "layer":
        return [Variable(member.name, kind, [member], granularity) for member in members]
    return [
        Variable(f"{member.name}[{kernel}]", kind, [member], granularity, kernel)
        for member in members
        for kernel, bits in enumerate(member.bits.tolist())
        if bits
    ]
