"""What a search for widths may do, and where each width starts: how far it may go, and how fast."""

from __future__ import annotations

__all__ = ["SearchSettings", "first_width", "rate"]

import dataclasses

from .width_variables import Variable
from .widths import Width

_EXPECTED_BITS = 3
"""Where widths are expected to end, in the choice of rates."""
_MOST_BITS = 8
_TRAVEL, _MOST_SPEED = 3.0, 1 / 16
"""How often the way could be gone within the search if nothing resisted, and bits per step at most."""
_MOST_RATE = 0.3
"""Bits per step and unit of the loss at most: with a small lambda, more would follow the noise of batches."""
_ACTIVATION_SHARE = 0.5
"""Rate of activations, as a share of that of weights: AdaQAT, section III-C."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class SearchSettings:
    """What the search may do.

    Attributes:
        balance: Lambda, what one product of a weight's and an activation's bit costs in units of the loss.
        weights: Granularity of the weights, ``network``, ``layer`` or ``kernel``.
        activations: Granularity of the activations, ``network`` or ``layer``; None: their widths stay.
        steps: Steps of the optimizer after which every width is settled.
        least_weights: Bits of weights, at least.
        least_activations: Bits of activations, at least.
    """

    balance: float
    weights: str = "network"
    activations: str | None = "network"
    steps: int
    least_weights: int = 1
    least_activations: int = 2


def first_width(variable: Variable, settings: SearchSettings) -> Width:
    """The width of a variable when the search begins: the bits that it has, and a speed that fits the steps.

    Args:
        variable: What has the width.
        settings: What the search may do.
    """
    bits, weights = variable.bits, variable.kind == "weights"
    least = settings.least_weights if weights else settings.least_activations
    way = max(bits - _EXPECTED_BITS, 1)
    speed = min(_TRAVEL * way / max(settings.steps, 1), _MOST_SPEED) * (1 if weights else _ACTIVATION_SHARE)
    return Width(bits, min(least, bits), max(_MOST_BITS, bits), rate=0.0, speed=speed)


def rate(width: Width, price: float) -> float:
    """Bits per step and unit of the gradient, eta of AdaQAT's equation 4.

    The paper's is constant, for hundreds of epochs. In a few, what a bit is multiplied with changes how fast
    widths fall: beside 1-bit weights, activations would still be on their way when the search ends.

    Args:
        width: Whose speed it gives, where a bit less costs nothing.
        price: The slope of the hardware term times lambda.
    """
    return min(width.speed / price, _MOST_RATE) if price > 0 else _MOST_RATE
