"""What learned scales have in common."""

from __future__ import annotations

__all__ = ["dot", "gradient_scale", "restrain"]

import math

import torch
from torch import Tensor

_MOST = 0.05
"""How far one step of the optimizer may move a scale, as a share of it."""


def dot(a: Tensor, b: Tensor) -> Tensor:
    """The sum of the products of two tensors of the same shape, ``()``."""
    return torch.dot(a.flatten(), b.flatten())


def gradient_scale(elements: int, largest: int) -> float:
    """``1 / sqrt(N * Q_P)``, which makes steps of a scale as large, relative to it, as those of weights.

    Source: Esser et al., Learned Step Size Quantization, section 2.2.

    Args:
        elements: Weights, or features of one sample, that share the scale.
        largest: The largest code, as a distance from real 0.
    """
    return 1 / math.sqrt(max(elements, 1) * max(largest, 1))


@torch.no_grad()
def restrain(scale: Tensor, former: Tensor) -> None:
    """Keep scales within ``_MOST`` of what they were before a step of the optimizer; so they stay positive.

    Behind a layer comes normalization, so its gradients grow as its scale falls: one step too many, and the
    next throws the scale, and then the weights, out of all proportion. The first layer of a network, 8 bits
    before 2-bit ones, fell to 0.6 % of its scale in 18 steps like that; where it does not happen, the limit
    is not reached.

    Args:
        scale: After the step, any shape; changed in place. One that is not trained is left alone.
        former: Before it, the same shape, positive; becomes the new ``scale``.
    """
    if not scale.requires_grad:  # no step changed it, and this is done at every step
        return
    scale.copy_(torch.minimum(torch.maximum(scale, former * (1 - _MOST)), former * (1 + _MOST)))
    former.copy_(scale)
