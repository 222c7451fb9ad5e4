"""Pooling by windows: MaxPool, AveragePool and LpPool, over one, two and three spatial dimensions."""

from __future__ import annotations

__all__ = [
    "average_pool",
    "import_average_pool",
    "import_lp_pool",
    "import_max_pool",
    "lp_pool",
    "max_pool",
    "max_pool_with_indices",
]

from typing import Any

import onnx_ir as ir
import torch
from torch import Tensor
from torch.nn import functional as F

from .registry import leaf, parts, register, unsupported
from .window import (
    SAME,
    ceil_pads,
    check_auto_pad,
    same_pads,
    spatial_attributes,
    torch_pads,
    windows,
)

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
) -> Tensor | tuple[Tensor, ...]:
    """Import MaxPool; ``storage_order`` is about the indices."""
    _check_rank(node, kernel_shape)
    check_auto_pad(node, auto_pad)
    stride, pads, dilation = spatial_attributes(len(kernel_shape), strides, pads, dilations, auto_pad)
    arguments = (x, kernel_shape, stride, pads, dilation, bool(ceil_mode), auto_pad)
    if len(node.outputs) > 1 and (node.outputs[1].uses() or node.outputs[1].is_graph_output()):
        return parts(max_pool_with_indices(*arguments, bool(storage_order)), node)
    return max_pool(*arguments)


@leaf
def max_pool(
    x: Tensor,
    kernel: tuple[int, ...],
    stride: tuple[int, ...],
    pads: tuple[int, ...],
    dilation: tuple[int, ...],
    ceil_mode: bool = False,
    auto_pad: str = "NOTSET",
) -> Tensor:
    """The largest of each window; padding never is."""
    if not x.is_floating_point():  # bytes, which torch does not pool, and float32 holds
        return max_pool(x.float(), kernel, stride, pads, dilation, ceil_mode, auto_pad).to(x.dtype)
    own, padding, ceil_mode = _split_pads(x.shape[2:], kernel, stride, pads, dilation, ceil_mode, auto_pad)
    x = F.pad(x, torch_pads(own), value=-torch.inf) if any(own) else x
    return _MAX[len(kernel)](x, kernel, stride, padding, dilation, ceil_mode)  # type: ignore[no-any-return]


@leaf
def max_pool_with_indices(
    x: Tensor,
    kernel: tuple[int, ...],
    stride: tuple[int, ...],
    pads: tuple[int, ...],
    dilation: tuple[int, ...],
    ceil_mode: bool,
    auto_pad: str,
    column_major: bool,
) -> tuple[Tensor, Tensor]:
    """The largest of each window, and where it is in the whole tensor seen as one row.

    ``column_major`` is about the spatial axes only: the first of them runs fastest.
    """
    sizes = x.shape[2:]
    own, padding, ceil_mode = _split_pads(sizes, kernel, stride, pads, dilation, ceil_mode, auto_pad)
    padded = F.pad(x if x.is_floating_point() else x.float(), torch_pads(own), value=-torch.inf)
    y, index = _MAX[len(kernel)](padded, kernel, stride, padding, dilation, ceil_mode, True)
    places = torch.arange(sizes.numel(), device=x.device)
    places = (
        places.view(sizes[::-1]).permute(*range(len(sizes) - 1, -1, -1))
        if column_major
        else places.view(sizes)
    )
    planes = torch.arange(x.shape[0] * x.shape[1], device=x.device).view(*x.shape[:2], *[1] * len(sizes))
    return y.to(x.dtype), F.pad(places, torch_pads(own)).flatten()[index] + planes * sizes.numel()


def _split_pads(
    sizes: torch.Size,
    kernel: tuple[int, ...],
    stride: tuple[int, ...],
    pads: tuple[int, ...],
    dilation: tuple[int, ...],
    ceil_mode: bool,
    auto_pad: str,
) -> tuple[tuple[int, ...], tuple[int, ...], bool]:
    """Split the padding into ours, and torch's padding and ceil mode."""
    rank = len(kernel)
    if auto_pad in SAME:
        pads = same_pads(sizes, kernel, stride, dilation, auto_pad)
    if _torch_pads_so(pads, kernel):
        return (0,) * (2 * rank), pads[:rank], ceil_mode
    return (ceil_pads(sizes, kernel, stride, dilation, pads) if ceil_mode else pads), (0,) * rank, False


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
    _check_rank(node, kernel_shape)
    check_auto_pad(node, auto_pad)
    stride, pads, dilation = spatial_attributes(len(kernel_shape), strides, pads, dilations, auto_pad)
    return average_pool(
        x, kernel_shape, stride, pads, bool(count_include_pad), dilation, bool(ceil_mode), auto_pad
    )


@leaf
def average_pool(
    x: Tensor,
    kernel: tuple[int, ...],
    stride: tuple[int, ...],
    pads: tuple[int, ...],
    count_padding: bool,
    dilation: tuple[int, ...],
    ceil_mode: bool = False,
    auto_pad: str = "NOTSET",
) -> Tensor:
    """The mean of each window, over what is not padding unless ``count_padding``.

    What hangs over the padding in ``ceil_mode`` never counts.
    """
    rank = len(kernel)
    if auto_pad in SAME:
        pads = same_pads(x.shape[2:], kernel, stride, dilation, auto_pad)
    if set(dilation) == {1} and _torch_pads_so(pads, kernel) and not _is_half_volume(x):
        return _AVERAGE[rank](x, kernel, stride, pads[:rank], ceil_mode, count_padding)  # type: ignore[no-any-return]
    fitted = ceil_pads(x.shape[2:], kernel, stride, dilation, pads) if ceil_mode else pads
    mean = _mean(F.pad(x, torch_pads(fitted)), kernel, stride, dilation)
    counted = torch.ones_like(x[:1, :1])
    if count_padding:
        counted = F.pad(counted, torch_pads(pads), value=1)
        fitted = tuple(all_ - own for all_, own in zip(fitted, pads, strict=True))
    if not any(fitted):  # each window counts in full
        return mean
    return mean / _mean(F.pad(counted, torch_pads(fitted)), kernel, stride, dilation)


def _mean(x: Tensor, kernel: tuple[int, ...], stride: tuple[int, ...], dilation: tuple[int, ...]) -> Tensor:
    if set(dilation) == {1} and not _is_half_volume(x):
        return _AVERAGE[len(kernel)](x, kernel, stride)  # type: ignore[no-any-return]
    return windows(x, kernel, stride, dilation).mean(tuple(range(-len(kernel), 0)))


def _is_half_volume(x: Tensor) -> bool:
    """Whether it is what torch has no ``avg_pool3d`` for on the CPU."""
    return x.ndim == 5 and x.dtype.itemsize == 2


@register("LpPool", 2, 11, 18, 22)
def import_lp_pool(
    node: ir.Node,
    x: Tensor,
    *,
    auto_pad: str = "NOTSET",
    ceil_mode: int = 0,
    dilations: tuple[int, ...] | None = None,
    kernel_shape: tuple[int, ...],
    p: int = 2,
    pads: tuple[int, ...] | None = None,
    strides: tuple[int, ...] | None = None,
) -> Tensor:
    """Import LpPool."""
    check_auto_pad(node, auto_pad)
    stride, pads, dilation = spatial_attributes(len(kernel_shape), strides, pads, dilations, auto_pad)
    return lp_pool(x, kernel_shape, stride, pads, dilation, bool(ceil_mode), auto_pad, p)


@leaf
def lp_pool(
    x: Tensor,
    kernel: tuple[int, ...],
    stride: tuple[int, ...],
    pads: tuple[int, ...],
    dilation: tuple[int, ...],
    ceil_mode: bool,
    auto_pad: str,
    p: int,
) -> Tensor:
    """``(sum |x|**p)**(1 / p)`` of each window; the gradient at a window of zeros is zero.

    ``F.lp_pool2d`` is something else: it adds up ``x**p``, signs and all.
    """
    if auto_pad in SAME:
        pads = same_pads(x.shape[2:], kernel, stride, dilation, auto_pad)
    if ceil_mode:
        pads = ceil_pads(x.shape[2:], kernel, stride, dilation, pads)
    view = windows(F.pad(x, torch_pads(pads)), kernel, stride, dilation)
    y: Tensor = torch.linalg.vector_norm(view, p, tuple(range(-len(kernel), 0)))
    return y


def _check_rank(node: ir.Node, kernel_shape: tuple[int, ...]) -> None:
    if len(kernel_shape) not in _MAX:
        raise unsupported(
            node,
            f"kernel_shape={list(kernel_shape)}, allowed are 1, 2 and 3 dimensions. Cut this part off the "
            "model",
        )


def _torch_pads_so(pads: tuple[int, ...], kernel: tuple[int, ...]) -> bool:
    """Whether torch's pools take this padding: begin and end alike, at most half a kernel."""
    rank = len(kernel)
    return pads[:rank] == pads[rank:] and all(pads[axis] <= kernel[axis] // 2 for axis in range(rank))
