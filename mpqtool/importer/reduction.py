"""Reductions over axes. Of an empty set the sum is 0, the product 1, the maximum -inf."""

from __future__ import annotations

__all__ = [
    "reduce_l1",
    "reduce_l2",
    "reduce_log_sum",
    "reduce_log_sum_exp",
    "reduce_max",
    "reduce_mean",
    "reduce_min",
    "reduce_prod",
    "reduce_sum",
    "reduce_sum_square",
]

import functools
import math
from collections.abc import Callable
from typing import Any

import onnx_ir as ir
import torch
from torch import Tensor

from .registry import integers, leaf, register
from .unsigned import as_float64, as_int64, from_ordered, in_order

_Reduction = Callable[[Tensor, tuple[int, ...], bool], Tensor]


def _reduction(
    op_type: str, *, attribute: tuple[int, ...], tensor: tuple[int, ...]
) -> Callable[[_Reduction], Callable[..., Tensor]]:
    """Make a leaf of a function ``(x, axes, keepdims)`` and register it.

    Args:
        op_type: The operator.
        attribute: Its schema versions that have the axes in an attribute.
        tensor: Its schema versions that have them in an input.
    """

    def enter(function: _Reduction) -> Callable[..., Tensor]:
        @leaf
        @functools.wraps(function)
        def reduce(x: Tensor, axes: Any, keepdims: bool, noop: bool) -> Tensor:
            axes = () if axes is None else integers(axes)
            if not axes and noop:  # every number is a set of its own
                return function(x.unsqueeze(-1), (-1,), False)
            return function(x, axes or tuple(range(x.ndim)), keepdims)

        def from_attribute(
            node: ir.Node, x: Tensor, *, axes: tuple[int, ...] | None = None, keepdims: int = 1
        ) -> Tensor:
            return reduce(x, axes, bool(keepdims), False)

        def from_input(
            node: ir.Node,
            x: Tensor,
            axes: Any | None = None,
            *,
            keepdims: int = 1,
            noop_with_empty_axes: int = 0,
        ) -> Tensor:
            return reduce(x, axes, bool(keepdims), bool(noop_with_empty_axes))

        register(op_type, *attribute)(from_attribute)
        register(op_type, *tensor, known=("axes",))(from_input)
        return reduce

    return enter


@_reduction("ReduceSum", attribute=(1, 11), tensor=(13,))
def reduce_sum(x: Tensor, axes: tuple[int, ...], keepdims: bool) -> Tensor:
    """Sum."""
    if x.is_floating_point():
        return torch.sum(x, axes, keepdims)
    return torch.sum(as_int64(x), axes, keepdims).to(x.dtype)


@_reduction("ReduceMean", attribute=(1, 11, 13), tensor=(18,))
def reduce_mean(x: Tensor, axes: tuple[int, ...], keepdims: bool) -> Tensor:
    """Mean; of integers, without its fraction."""
    if x.is_floating_point():
        return torch.mean(x, axes, keepdims)
    total = torch.sum(as_int64(x), axes, keepdims)
    return torch.div(total, math.prod(x.shape[axis] for axis in axes), rounding_mode="trunc").to(x.dtype)


@_reduction("ReduceMax", attribute=(1, 11, 12, 13), tensor=(18, 20))
def reduce_max(x: Tensor, axes: tuple[int, ...], keepdims: bool) -> Tensor:
    """Largest number."""
    if x.numel() == 0:  # torch refuses
        return _empty(x, axes, keepdims, -math.inf)
    return from_ordered(torch.amax(in_order(x), axes, keepdims), x.dtype)


@_reduction("ReduceMin", attribute=(1, 11, 12, 13), tensor=(18, 20))
def reduce_min(x: Tensor, axes: tuple[int, ...], keepdims: bool) -> Tensor:
    """Smallest number."""
    if x.numel() == 0:
        return _empty(x, axes, keepdims, math.inf)
    return from_ordered(torch.amin(in_order(x), axes, keepdims), x.dtype)


@_reduction("ReduceProd", attribute=(1, 11, 13), tensor=(18,))
def reduce_prod(x: Tensor, axes: tuple[int, ...], keepdims: bool) -> Tensor:
    """Product."""
    product = as_int64(x)
    for axis in axes:  # torch takes one at a time
        product = torch.prod(product, axis, keepdim=True)
    return (product if keepdims else product.squeeze(axes)).to(x.dtype)


@_reduction("ReduceL1", attribute=(1, 11, 13), tensor=(18,))
def reduce_l1(x: Tensor, axes: tuple[int, ...], keepdims: bool) -> Tensor:
    """Sum of magnitudes."""
    return torch.sum(as_int64(x).abs(), axes, keepdims).to(x.dtype)


@_reduction("ReduceL2", attribute=(1, 11, 13), tensor=(18,))
def reduce_l2(x: Tensor, axes: tuple[int, ...], keepdims: bool) -> Tensor:
    """Square root of the sum of squares; its gradient at 0 is 0."""
    norm: Tensor = torch.linalg.vector_norm(as_float64(x), 2, axes, keepdims)
    return norm.to(x.dtype)


@_reduction("ReduceLogSum", attribute=(1, 11, 13), tensor=(18, 28))
def reduce_log_sum(x: Tensor, axes: tuple[int, ...], keepdims: bool) -> Tensor:
    """Logarithm of the sum."""
    return torch.log(torch.sum(as_float64(x), axes, keepdims)).to(x.dtype)


@_reduction("ReduceLogSumExp", attribute=(1, 11, 13), tensor=(18, 28))
def reduce_log_sum_exp(x: Tensor, axes: tuple[int, ...], keepdims: bool) -> Tensor:
    """Logarithm of the sum of exponentials."""
    return torch.logsumexp(as_float64(x), axes, keepdims).to(x.dtype)


@_reduction("ReduceSumSquare", attribute=(1, 11, 13), tensor=(18,))
def reduce_sum_square(x: Tensor, axes: tuple[int, ...], keepdims: bool) -> Tensor:
    """Sum of squares."""
    return torch.sum(as_int64(x).square(), axes, keepdims).to(x.dtype)


def _empty(x: Tensor, axes: tuple[int, ...], keepdims: bool, infinity: float) -> Tensor:
    """The extreme of nothing: infinity, or the farthest number that the type has."""
    if x.dtype == torch.bool:
        farthest: float = infinity > 0
    elif x.is_floating_point():
        farthest = infinity
    else:
        limits = torch.iinfo(x.dtype)
        farthest = limits.max if infinity > 0 else limits.min
    shape = torch.sum(x.to(torch.float32), axes, keepdims).shape
    return torch.full(shape, farthest, dtype=x.dtype, device=x.device)
