"""Sums and products of everything up to an element."""

from __future__ import annotations

__all__ = ["cumulative_product", "cumulative_sum", "import_cum_prod", "import_cum_sum"]

from collections.abc import Callable
from typing import Any

import onnx_ir as ir
import torch
from torch import Tensor

from .registry import integers, leaf, register
from .unsigned import as_int64


@register("CumSum", 11, 14, known=("axis",))
def import_cum_sum(node: ir.Node, x: Tensor, axis: Any, *, exclusive: int = 0, reverse: int = 0) -> Tensor:
    """Import CumSum."""
    return cumulative_sum(x, axis, bool(exclusive), bool(reverse))


@register("CumProd", 26, known=("axis",))
def import_cum_prod(node: ir.Node, x: Tensor, axis: Any, *, exclusive: int = 0, reverse: int = 0) -> Tensor:
    """Import CumProd."""
    return cumulative_product(x, axis, bool(exclusive), bool(reverse))


@leaf
def cumulative_sum(x: Tensor, axis: Any, exclusive: bool, reverse: bool) -> Tensor:
    """Running sum along ``axis``."""
    return _cumulative(torch.cumsum, 0, x, axis, exclusive, reverse)


@leaf
def cumulative_product(x: Tensor, axis: Any, exclusive: bool, reverse: bool) -> Tensor:
    """Running product along ``axis``."""
    return _cumulative(torch.cumprod, 1, x, axis, exclusive, reverse)


def _cumulative(
    run: Callable[..., Tensor], neutral: int, x: Tensor, axis: Any, exclusive: bool, reverse: bool
) -> Tensor:
    """Run from the start or, with ``reverse``, from the end; ``exclusive`` leaves the element itself out."""
    (dim,) = integers(axis)
    numbers = as_int64(x)
    if reverse:
        numbers = numbers.flip(dim)
    if exclusive and numbers.numel():
        first, before = numbers.narrow(dim, 0, 1), numbers.narrow(dim, 0, numbers.shape[dim] - 1)
        numbers = torch.cat((torch.full_like(first, neutral), before), dim)
    numbers = run(numbers, dim, dtype=numbers.dtype)
    return (numbers.flip(dim) if reverse else numbers).to(x.dtype)
