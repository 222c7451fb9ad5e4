"""Pooling, over one, two and three spatial dimensions."""

from __future__ import annotations

__all__ = [
    "average_pool",
    "global_average_pool",
    "global_max_pool",
    "import_average_pool",
    "import_global_average_pool",
    "import_global_max_pool",
    "import_max_pool",
    "max_pool",
]

from typing import Any

import onnx_ir as ir
import torch
from torch import Tensor
from torch.nn import functional as F

from .registry import leaf, register, unsupported
from .window import torch_pads

_MAX: dict[int, Any] = {1: F.max_pool1d, 2: F.max_pool2d, 3: F.max_pool3d}
_AVERAGE: dict[int, Any] = {1: F.avg_pool1d, 2: F.avg_pool2d, 3: F.avg_pool3d}


@register("MaxPool", 1, 8, 10, 11, 12, 22)
def import_max_pool(
    node: ir.Node,
    x: Tensor,
    *,
    auto_pad: str = "NOTSET",
    ceil_mode: int = 0,
    dilations: tuple[int, ...] | None = None,
    kernel_shape: tuple[int, ...],
    pads: tuple[int, ...] | None = None,
    storage_order: int = 0,
    strides: tuple[int, ...] | None = None,
) -> Tensor:
    """Import MaxPool; ``storage_order`` is about the indices, which are not handled."""
    _check(node, auto_pad, ceil_mode, kernel_shape)
    rank = len(kernel_shape)
    return max_pool(
        x, kernel_shape, strides or (1,) * rank, pads or (0,) * (2 * rank), dilations or (1,) * rank
    )


@leaf
def max_pool(
    x: Tensor,
    kernel: tuple[int, ...],
    stride: tuple[int, ...],
    pads: tuple[int, ...],
    dilation: tuple[int, ...],
) -> Tensor:
    """The largest of each window; padding never is."""
    if any(pads):
        x = F.pad(x, torch_pads(pads), value=-torch.inf)
    return _MAX[len(kernel)](x, kernel, stride, 0, dilation)  # type: ignore[no-any-return]


@register("AveragePool", 7, 10, 11, 19, 22)
def import_average_pool(
    node: ir.Node,
    x: Tensor,
    *,
    auto_pad: str = "NOTSET",
    ceil_mode: int = 0,
    count_include_pad: int = 0,
    dilations: tuple[int, ...] | None = None,
    kernel_shape: tuple[int, ...],
    pads: tuple[int, ...] | None = None,
    strides: tuple[int, ...] | None = None,
) -> Tensor:
    """Import AveragePool."""
    _check(node, auto_pad, ceil_mode, kernel_shape)
    if dilations is not None and set(dilations) != {1}:
        raise unsupported(node, f"dilations={list(dilations)}, and only 1 is handled")
    rank = len(kernel_shape)
    pads = pads or (0,) * (2 * rank)
    return average_pool(x, kernel_shape, strides or (1,) * rank, pads, bool(count_include_pad))


@leaf
def average_pool(
    x: Tensor, kernel: tuple[int, ...], stride: tuple[int, ...], pads: tuple[int, ...], count_padding: bool
) -> Tensor:
    """The mean of each window, over what is not padding unless ``count_padding``."""
    pool = _AVERAGE[len(kernel)]
    if not any(pads):
        return pool(x, kernel, stride)  # type: ignore[no-any-return]
    mean: Tensor = pool(F.pad(x, torch_pads(pads)), kernel, stride)
    if count_padding:
        return mean
    inside = F.pad(torch.ones_like(x[:1, :1]), torch_pads(pads))
    return mean / pool(inside, kernel, stride)  # type: ignore[no-any-return]


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


def _check(node: ir.Node, auto_pad: str, ceil_mode: int, kernel_shape: tuple[int, ...]) -> None:
    if auto_pad not in ("NOTSET", "VALID"):
        raise unsupported(
            node,
            f"auto_pad={auto_pad!r} needs sizes that are not known, give the input fixed height and width",
        )
    if ceil_mode:
        raise unsupported(node, "ceil_mode=1 depends on a size that is not known, write it as pads")
    if len(kernel_shape) not in _MAX:
        raise unsupported(node, f"kernel_shape={list(kernel_shape)}, and 1, 2 and 3 dimensions are handled")
