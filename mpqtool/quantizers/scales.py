"""What learned scales have in common."""

from __future__ import annotations

__all__ = ["gradient_scale", "restore_collapsed"]

import math

import torch
from torch import Tensor

_COLLAPSED = 1e-6
"""Share of its initial value below which a scale has collapsed."""


def gradient_scale(elements: int, largest: int) -> float:
    """``1 / sqrt(N * Q_P)``, which makes steps of a scale as large, relative to it, as those of weights.

    Source: Esser et al., Learned Step Size Quantization, section 2.2.

    Args:
        elements: Weights, or features of one sample, that share the scale.
        largest: The largest code, as a distance from real 0.
    """
    return 1 / math.sqrt(max(elements, 1) * max(largest, 1))


@torch.no_grad()
def restore_collapsed(scale: Tensor, initial: Tensor) -> None:
    """Set scales that a step has taken to 0 or below, or nearly so, back to where they began.

    Args:
        scale: Any shape; changed in place.
        initial: The same shape, positive.
    """
    scale.copy_(torch.where(scale < _COLLAPSED * initial, initial, scale))
