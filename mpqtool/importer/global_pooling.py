"""Pooling over all of the spatial dimensions."""

from __future__ import annotations

__all__ = [
    "global_average_pool",
    "global_lp_pool",
    "global_max_pool",
    "import_global_average_pool",
    "import_global_lp_pool",
    "import_global_max_pool",
]

import onnx_ir as ir
import torch
from torch import Tensor

from .registry import leaf, register


@register("GlobalAveragePool", 1, 22)
def import_global_average_pool(node: ir.Node, x: Tensor) -> Tensor:
    """Import GlobalAveragePool."""
    return global_average_pool(x)


@leaf
def global_average_pool(x: Tensor) -> Tensor:
    """``(batch, channels, *spatial)`` to ``(batch, channels, 1, ...)``."""
    return x.mean(tuple(range(2, x.ndim)), keepdim=True)


@register("GlobalMaxPool", 1, 22)
def import_global_max_pool(node: ir.Node, x: Tensor) -> Tensor:
    """Import GlobalMaxPool."""
    return global_max_pool(x)


@leaf
def global_max_pool(x: Tensor) -> Tensor:
    """``(batch, channels, *spatial)`` to ``(batch, channels, 1, ...)``."""
    return x.amax(tuple(range(2, x.ndim)), keepdim=True)


@register("GlobalLpPool", 2, 22)
def import_global_lp_pool(node: ir.Node, x: Tensor, *, p: int = 2) -> Tensor:
    """Import GlobalLpPool."""
    return global_lp_pool(x, p)


@leaf
def global_lp_pool(x: Tensor, p: int) -> Tensor:
    """``(batch, channels, *spatial)`` to ``(batch, channels, 1, ...)``, by ``(sum |x|**p)**(1 / p)``."""
    y: Tensor = torch.linalg.vector_norm(x, p, tuple(range(2, x.ndim)), keepdim=True)
    return y
