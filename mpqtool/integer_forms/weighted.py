"""Convolutions and matrix products: int32 accumulators."""

from __future__ import annotations

__all__ = ["FORMS"]

import dataclasses
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from mpqtool.passes import arithmetic
from mpqtool.quantizers import round_ste

from .values import Codes, Pending, WeightCodes


def _weighted(
    op: Callable[..., Tensor], x: Any, weight: Any, bias: Tensor | None = None, *args: Any, **kwargs: Any
) -> Any:
    """A convolution or matrix product: an int32 accumulator in units of ``s_x * s_w``."""
    if not isinstance(x, Codes) or not isinstance(weight, WeightCodes):
        return NotImplemented
    unit = x.scale * weight.scale
    bias_codes = _bias_codes(x, weight, bias)
    small = _largest_sum(x, weight, bias_codes) < arithmetic.EXACT_BELOW
    exact = torch.float32 if small else torch.float64
    codes = weight.codes.to(exact)
    with torch.backends.cudnn.flags(allow_tf32=False):
        acc = op(
            x.centered.to(exact), codes, None if bias_codes is None else bias_codes.to(exact), *args, **kwargs
        )
        if x.zeros_around:
            sums = op(torch.ones_like(x.centered[:1], dtype=exact), codes, None, *args, **kwargs)
            acc = acc.double() + round_ste(_in_codes(x) * sums.double())
    channels = -1 if weight.codes.ndim == 2 else 1
    shape = [-1 if axis == channels % acc.ndim else 1 for axis in range(acc.ndim)]
    return _pending(acc, unit.view(shape))


def _pending(acc: Tensor, unit: Tensor) -> Pending:
    """An accumulator that waits for its multiplier; an offset is taken off it in whole units."""
    return Pending(
        rescale=lambda scale: acc.float() * (unit / scale),
        real=lambda: acc.float() * unit,
        shifted=lambda offset: _pending(acc.double() - torch.round(_over(offset, unit)), unit),
    )


def _bias_codes(x: Codes, weight: WeightCodes, bias: Tensor | None) -> Tensor | None:
    """The bias in units of the accumulator, as ``arithmetic.fold_offset`` has it."""
    unit = x.scale * weight.scale
    if not x.offset or x.zeros_around:
        return None if bias is None else round_ste(bias / unit)
    folded = _in_codes(x) * weight.codes.double().flatten(1).sum(1)
    return round_ste(folded if bias is None else bias.double() / unit.double() + folded)


def _in_codes(x: Codes) -> Tensor:
    return _over(x.offset, x.scale)


def _over(number: float, unit: Tensor) -> Tensor:
    """The quotient in float64; torch would round that of a number and a tensor twice."""
    wide = unit.double()
    return wide.new_tensor(number) / wide


def _own_bias(op: Callable[..., Tensor], x: Any, weight: Any, bias: Tensor | None, offset: float) -> Any:
    """``fold_offset`` before a layer that folds the offset of its codes itself."""
    return bias if isinstance(x, Codes) and isinstance(weight, WeightCodes) else NotImplemented


def _zeros_around(op: Callable[..., Tensor], x: Any, offset: float) -> Any:
    """``add_offset`` before a layer that pads with real zeros."""
    return dataclasses.replace(x, zeros_around=True) if isinstance(x, Codes) else NotImplemented


@torch.no_grad()
def _largest_sum(x: Codes, weight: WeightCodes, bias: Tensor | None) -> float:
    """A bound on ``abs(acc)`` and all its partial sums, from the weights alone."""
    reach = max(x.zero_point, x.high - x.zero_point)
    sums = weight.codes.abs().flatten(1).sum(1) * reach
    return float((sums if bias is None else sums + bias.abs()).max())


FORMS: dict[str, Callable[..., Any]] = {
    "Conv": _weighted,
    "Gemm": _weighted,
    "FoldOffset": _own_bias,
    "AddOffset": _zeros_around,
}
