"""Convolutions and matrix products: int32 accumulators."""

from __future__ import annotations

__all__ = ["FORMS"]

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from mpqtool.quantizers import round_ste

from .values import Codes, Pending, WeightCodes

_FLOAT32_EXACT = 2**24


def _weighted(
    op: Callable[..., Tensor], x: Any, weight: Any, bias: Tensor | None = None, *args: Any, **kwargs: Any
) -> Any:
    """A convolution or matrix product: an int32 accumulator in units of ``s_x * s_w``."""
    if not isinstance(x, Codes) or not isinstance(weight, WeightCodes):
        return NotImplemented
    unit = x.scale * weight.scale
    bias_codes = None if bias is None else round_ste(bias / unit)
    exact = torch.float32 if _largest_sum(x, weight, bias_codes) < _FLOAT32_EXACT else torch.float64
    with torch.backends.cudnn.flags(allow_tf32=False):
        acc = op(
            x.centered.to(exact),
            weight.codes.to(exact),
            None if bias_codes is None else bias_codes.to(exact),
            *args,
            **kwargs,
        ).float()
    channels = -1 if weight.codes.ndim == 2 else 1
    shape = [-1 if axis == channels % acc.ndim else 1 for axis in range(acc.ndim)]
    return Pending(
        rescale=lambda scale: acc * (unit / scale).view(shape),
        real=lambda: acc * unit.view(shape),
    )


@torch.no_grad()
def _largest_sum(x: Codes, weight: WeightCodes, bias: Tensor | None) -> float:
    """A bound on ``abs(acc)`` and all its partial sums, from the weights alone."""
    reach = max(x.zero_point, x.high - x.zero_point)
    sums = weight.codes.abs().flatten(1).sum(1) * reach
    return float((sums if bias is None else sums + bias.abs()).max())


FORMS: dict[str, Callable[..., Any]] = {"Conv": _weighted, "Gemm": _weighted}
