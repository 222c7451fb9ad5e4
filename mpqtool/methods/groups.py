"""Groups: the sets of values that share a bit-width, and what one bit less of them would cost."""

from __future__ import annotations

__all__ = ["Activation", "Kernel", "activation_bits", "prefix", "weight_bits"]

import dataclasses
from collections.abc import Collection

from torch import fx

from mpqtool.quantizers import ActivationQuantizer, WeightQuantizer
from mpqtool.quantizers.attach import activation_quantizers, weight_quantizers

from .noise_gain import NoiseGains


@dataclasses.dataclass(frozen=True)
class Kernel:
    """One output channel's weights."""

    quantizer: WeightQuantizer
    index: int

    @property
    def elements(self) -> int:
        return self.quantizer.elements

    def sensitivity(self, gains: NoiseGains) -> float:
        """``step**2 * E / elements``: growth of the mismatch bound for each bit of storage given up."""
        step = float(self.quantizer.step[self.index])
        return step**2 * float(gains.weights[self.quantizer.name][self.index]) / self.elements

    def take_a_bit(self) -> None:
        self.quantizer.bits[self.index] -= 1


@dataclasses.dataclass(frozen=True)
class Activation:
    """One quantized value."""

    quantizer: ActivationQuantizer

    @property
    def elements(self) -> int:
        return self.quantizer.elements

    def sensitivity(self, gains: NoiseGains) -> float:
        """``step**2 * E / elements``."""
        step = float(self.quantizer.scale.detach())
        return step**2 * gains.activations.get(self.quantizer.name, 0.0) / max(self.elements, 1)

    def take_a_bit(self) -> None:
        self.quantizer.bits -= 1


def prefix(ranked: list[Kernel | Activation], allowed: int, excess: float) -> list[Kernel | Activation]:
    """The first ``allowed`` groups, or fewer if those already give up ``excess`` bits."""
    chosen: list[Kernel | Activation] = []
    for group in ranked[:allowed]:
        if excess <= 0:
            break
        chosen.append(group)
        excess -= group.elements
    return chosen


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
