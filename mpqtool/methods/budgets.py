"""Budgets: what a quantized network may cost, and whether it does."""

from __future__ import annotations

__all__ = ["PHASES", "Budgets", "Prices", "Widths", "has_part", "in_words", "widths"]

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence

import torch
from torch import fx

from mpqtool.quantizers.attach import activation_quantizers, weight_quantizers

from .groups import Group, effective_bits

PHASES = ("weights", "activations")
"""What loses bits in turn; the names of their own budgets too, in effective bits."""

Widths = Mapping[str, tuple[int, ...]]
"""Bits by name of a weight, one per kernel, or of a value, one."""
Prices = Callable[[Widths], Mapping[str, float]]
"""What a network of these widths costs: ``size`` in bytes, ``bitops``."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Budgets:
    """What a network may cost; every limit that is given has to be met.

    Attributes:
        limits: By name: ``weights`` and ``activations`` in effective bits, ``size`` of the weights in bytes,
            ``bitops``.
        prices: What the last two are told by; not called if neither is limited.
        free: Names of the values that no layer multiplies: their bits do not count.
    """

    limits: Mapping[str, float]
    prices: Prices
    free: frozenset[str]

    def used(self, network: fx.GraphModule) -> dict[str, float]:
        """What the network costs now, of all that is limited."""
        found = {name.removesuffix("_eff"): bits for name, bits in effective_bits(network, self.free).items()}
        if not self.limits.keys() <= found.keys():
            found |= self.prices(widths(network))
        return {name: found[name] for name in self.limits}

    @property
    def of_both(self) -> dict[str, float]:
        """The limits that both phases have a part in."""
        return {name: limit for name, limit in self.limits.items() if len(has_part(name)) > 1}

    def of_phase(self, phase: str, start: Mapping[str, float], *, halfway: bool) -> dict[str, float]:
        """The limits that a phase has to come down to.

        Args:
            phase: One of ``PHASES``.
            start: What the network cost at the start.
            halfway: Whether to go half of the way only, as factors go, where the other phase has a part.
        """
        limits = {name: limit for name, limit in self.limits.items() if phase in has_part(name)}
        if halfway:
            limits |= {
                name: math.sqrt(limit * max(start[name], limit)) for name, limit in self.of_both.items()
            }
        return limits

    def are_met(self, limits: Mapping[str, float], network: fx.GraphModule) -> bool:
        """Whether the network costs no more than this."""
        used = self.used(network)
        return all(used[name] <= limit for name, limit in limits.items())

    def binding(self, used: Mapping[str, float], start: Mapping[str, float]) -> str | None:
        """The budget that is exceeded most, or was met with the least to spare.

        None: all were met at the start.
        """
        asked = [name for name, limit in self.limits.items() if start[name] > limit]
        return max(asked, key=lambda name: used[name] / self.limits[name], default=None)

    def enough(self, chosen: Sequence[Group], limits: Mapping[str, float], network: fx.GraphModule) -> int:
        """How many of the chosen groups have to lose a bit, in turn, until the limits are met.

        All, if they never are. The network is left as it is.
        """
        quantizers = (*weight_quantizers(network), *activation_quantizers(network))
        turns = {q: torch.full_like(q.bits, len(chosen)) for q in quantizers}
        for number, group in enumerate(chosen):  # of every width: the group that it loses a bit with
            for quantizer, able in group.kernels:
                turns[quantizer][able] = number
        former = {quantizer: quantizer.bits.clone() for quantizer in turns}

        def suffices(number: int) -> bool:
            for quantizer, turn in turns.items():
                quantizer.bits.copy_(former[quantizer] - (turn < number).to(turn))
            met = self.are_met(limits, network)
            for quantizer, bits in former.items():
                quantizer.bits.copy_(bits)
            return met

        low, high = 0, len(chosen)  # costs only fall: the first number that suffices is found by halves
        while low < high:
            middle = (low + high) // 2
            low, high = (low, middle) if suffices(middle) else (middle + 1, high)
        return low


def has_part(name: str) -> Sequence[str]:
    """The phases that lower what a budget limits."""
    return PHASES if name == "bitops" else ("weights",) if name == "size" else (name,)


def widths(network: fx.GraphModule) -> Widths:
    """The present widths of everything that is quantized."""
    weights = {q.name: tuple(q.bits.tolist()) for q in weight_quantizers(network)}
    return weights | {q.name: (int(q.bits),) for q in activation_quantizers(network)}


def in_words(name: str, used: float) -> str:
    """Write what is used of a budget for a person."""
    if name in PHASES:
        return f"{name} at {used:.3f} bits"
    return f"size at {used:,.0f} bytes" if name == "size" else f"bitops at {used:,.4g}"
