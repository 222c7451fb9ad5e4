"""What one bit less of a group would cost, what it would save, and the order that follows.

Source: Gonugondla and Shanbhag, IMPQ, equations 1, 4 and 5, and Algorithm 1.
"""

from __future__ import annotations

__all__ = ["RANKS", "SENSITIVITIES", "Amounts", "Ranked", "ranked", "savings", "sensitivities"]

import dataclasses
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, fx

from mpqtool.quantizers.attach import plain_activations, plain_weights

from .groups import Activation, Group
from .noise_gain import NoiseGains
from .width_variables import Hardware, LayerCost

SENSITIVITIES = ("bound", "paper", "repo")
RANKS = ("bits", "macs", "group")


@dataclasses.dataclass(frozen=True)
class Amounts:
    """A number for every kernel and every activation.

    Attributes:
        weights: By weight name, ``(kernels,)``, float64.
        activations: By value name.
    """

    weights: Mapping[str, Tensor]
    activations: Mapping[str, float]

    def of(self, group: Group) -> float:
        """The sum over what has a bit to give in a group."""
        if isinstance(group, Activation):
            return self.activations[group.quantizer.name]
        return sum(float(self.weights[q.name][able].sum()) for q, able in group.kernels)


@dataclasses.dataclass(frozen=True)
class Ranked:
    """A group and its sensitivity ``M``."""

    group: Group
    sensitivity: float


def sensitivities(
    kind: str, network: fx.GraphModule, gains: NoiseGains, removal: Mapping[str, Tensor] | None = None
) -> Amounts:
    """``M`` of every kernel and activation at its present width ``B``; ``E`` is its noise gain.

    ``bound``: ``D**2 * E``, its term in the bound on the mismatch probability (equation 1, where ``D**2``
    is misprinted); ``D`` is the distance of two levels. One bit less adds three times as much.
    ``paper``: ``2**-B * E`` (equations 4 and 5), which leaves out the range of the values.
    ``repo``: ``2**-B * 24 E * r``, ``r`` the mean magnitude of a kernel's weights, and the clip of an
    activation; 24 is the denominator of ``E``. Divided by its bits, as ``savings`` does, this is
    the authors' code (github.com/gsujankumar/IMPQ), which takes means over a kernel, not sums.

    Args:
        kind: One of ``SENSITIVITIES``.
        network: With quantizers.
        gains: Noise gains at the present widths.
        removal: ``removal_gains``, where kernels of one bit may lose it: not four times the noise is what
            they add then, but ``M_k0``, and their sensitivity is a third of what that is more.
    """
    parameters = dict(network.named_parameters())
    weights, activations = {}, {}
    for quantizer in plain_weights(network):
        gain, bits = gains.weights[quantizer.name].double(), quantizer.bits.cpu().double()
        magnitude = parameters[quantizer.name].detach().abs().flatten(1).mean(1)
        of_kind = {
            "bound": quantizer.step.cpu().double() ** 2,
            "paper": 2**-bits,
            "repo": 24 * 2**-bits * magnitude.cpu().double(),
        }
        weights[quantizer.name] = gain * of_kind[kind]
        if removal is not None:
            more = (removal[quantizer.name] - weights[quantizer.name]).clamp(min=0)
            weights[quantizer.name] = torch.where(bits == 1, more / 3, weights[quantizer.name])
    for value in plain_activations(network):
        step, levels = float(value.scale.detach()), 2.0 ** int(value.bits)
        factor = {"bound": step**2, "paper": 1 / levels, "repo": 24 * step}[kind]
        activations[value.name] = gains.activations[value.name] * factor
    return Amounts(weights, activations)


def savings(kind: str, network: fx.GraphModule, costs: Sequence[LayerCost]) -> Amounts:
    """What one bit less of every kernel and activation saves.

    ``bits``: bits of storage, one for each element. ``macs``: operations on bits, multiply-accumulates times
    the width of the other operand. ``group``: one, whatever it holds.

    Args:
        kind: One of ``RANKS``.
        network: With quantizers; a batch has gone through.
        costs: Multiply-accumulates of the layers, as shares.
    """
    weights, activations = plain_weights(network), plain_activations(network)
    if kind != "macs":
        bits = kind == "bits"
        return Amounts(
            {q.name: torch.full((len(q.bits),), float(q.elements if bits else 1)).double() for q in weights},
            {q.name: float(q.elements if bits else 1) for q in activations},
        )
    hardware = Hardware(costs, network)
    by_weight, by_input = hardware.prices("weights"), hardware.prices("activations")
    return Amounts(
        {
            q.name: torch.full((len(q.bits),), by_weight.get(q.name, 0.0) / len(q.bits)).double()
            for q in weights
        },
        {q.name: by_input.get(q.name, 0.0) for q in activations},
    )


def ranked(groups: Sequence[Group], sensitivity: Amounts, saving: Amounts) -> list[Ranked]:
    """The groups in the order in which they should lose a bit: least sensitive, for what it saves, first.

    What saves nothing comes last; of equals, the first is first.
    """
    found = [Ranked(group, sensitivity.of(group)) for group in groups]
    saved = [saving.of(group) for group in groups]
    keys = [
        (gain <= 0, entry.sensitivity / gain if gain > 0 else 0.0)
        for entry, gain in zip(found, saved, strict=True)
    ]
    return [found[index] for index in sorted(range(len(found)), key=keys.__getitem__)]
