"""Reductions over axes."""

from __future__ import annotations

__all__ = ["import_reduce_max", "import_reduce_mean", "import_reduce_sum"]

from collections.abc import Callable
from typing import Any

import onnx_ir as ir
import torch
from torch import Tensor

from .registry import register


@register("ReduceMean", 18, known=("axes",))
def import_reduce_mean(
    node: ir.Node,
    x: Tensor,
    axes: Any | None = None,
    *,
    keepdims: int = 1,
    noop_with_empty_axes: int = 0,
) -> Tensor:
    """Import ReduceMean."""
    return _reduce(torch.mean, x, axes, keepdims, noop_with_empty_axes)


@register("ReduceSum", 13, known=("axes",))
def import_reduce_sum(
    node: ir.Node,
    x: Tensor,
    axes: Any | None = None,
    *,
    keepdims: int = 1,
    noop_with_empty_axes: int = 0,
) -> Tensor:
    """Import ReduceSum."""
    return _reduce(torch.sum, x, axes, keepdims, noop_with_empty_axes)


@register("ReduceMax", 18, 20, known=("axes",))
def import_reduce_max(
    node: ir.Node,
    x: Tensor,
    axes: Any | None = None,
    *,
    keepdims: int = 1,
    noop_with_empty_axes: int = 0,
) -> Tensor:
    """Import ReduceMax."""
    return _reduce(torch.amax, x, axes, keepdims, noop_with_empty_axes)


def _reduce(function: Callable[..., Tensor], x: Tensor, axes: Any | None, keepdims: int, noop: int) -> Tensor:
    """Reduce over the axes; no axes are all of them, or none with ``noop``."""
    if axes is None or len(axes) == 0:
        return x if noop else function(x, dim=(), keepdim=bool(keepdims))
    return function(x, dim=tuple(axes), keepdim=bool(keepdims))
