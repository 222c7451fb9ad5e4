"""Local response normalization."""

from __future__ import annotations

__all__ = ["import_lrn", "local_response_norm"]

import onnx_ir as ir
from torch import Tensor
from torch.nn import functional as F

from .registry import leaf, register
from .window import windows


@register("LRN", 1, 13)
def import_lrn(
    node: ir.Node,
    x: Tensor,
    *,
    alpha: float = 1e-4,
    beta: float = 0.75,
    bias: float = 1.0,
    size: int,
) -> Tensor:
    """Import LRN."""
    return local_response_norm(x, alpha, beta, bias, size)


@leaf
def local_response_norm(x: Tensor, alpha: float, beta: float, bias: float, size: int) -> Tensor:
    """``x / (bias + alpha / size * sum x**2)**beta``, the sum over ``size`` channels around each.

    Of an even number one more comes after the channel; in ``F.local_response_norm`` it is before.

    Source: Krizhevsky et al., ImageNet Classification with Deep Convolutional Neural Networks, section 3.3.
    """
    ends = ((size - 1) // 2, size // 2)
    squares = F.pad(x.square(), (*[0] * (2 * (x.ndim - 2)), *ends)).unsqueeze(1)
    sums = windows(squares, (size,), (1,), (1,)).sum(-1).squeeze(1)
    return x / (bias + alpha / size * sums) ** beta
