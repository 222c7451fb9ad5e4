"""GridSample and AffineGrid: images read at computed places."""

from __future__ import annotations

__all__ = ["affine_grid", "grid_sample", "import_affine_grid", "import_grid_sample", "sample"]

import itertools
from collections.abc import Sequence
from typing import Any

import onnx_ir as ir
import torch
from torch import Tensor
from torch.nn import functional as F

from .attributes import one_of
from .interpolation import cubic_kernel
from .registry import integers, leaf, register

_CUBIC_COEFFICIENT = -0.75
_TORCH_MODES = {"linear": "bilinear", "cubic": "bicubic", "nearest": "nearest"}
_MODES = ("linear", "cubic", "nearest", "bilinear", "bicubic")
_PADDINGS = ("zeros", "border", "reflection")


@register("AffineGrid", 20, known=("size",))
def import_affine_grid(node: ir.Node, theta: Tensor, size: Any, *, align_corners: int = 0) -> Tensor:
    """Import AffineGrid."""
    return affine_grid(theta, size, bool(align_corners))


@leaf
def affine_grid(theta: Tensor, size: Tensor | tuple[int, ...], align_corners: bool) -> Tensor:
    """Places ``(batch, *spatial, rank)`` of an image of ``size``, ``(batch, channels, *spatial)``."""
    return F.affine_grid(theta, list(integers(size)), align_corners)


@register("GridSample", 16, 20, 22)
def import_grid_sample(
    node: ir.Node,
    x: Tensor,
    grid: Tensor,
    *,
    align_corners: int = 0,
    mode: str = "linear",
    padding_mode: str = "zeros",
) -> Tensor:
    """Import GridSample; version 16 says ``bilinear`` and ``bicubic`` for ``linear`` and ``cubic``."""
    mode = one_of(node, "mode", mode, _MODES).removeprefix("bi")
    padding = one_of(node, "padding_mode", padding_mode, _PADDINGS)
    return grid_sample(x, grid, mode, padding, bool(align_corners))


@leaf
def grid_sample(x: Tensor, grid: Tensor, mode: str, padding: str, align_corners: bool) -> Tensor:
    """Sample ``x`` at the places ``grid``, in torch's own operator where that is the same.

    It is not for reflection of the nearest, where torch reflects before it rounds, and torch has no cubic
    volumes. Of small floats the CPU samples none.

    Args:
        x: ``(batch, channels, *spatial)``; integers are sampled as floats and cut off.
        grid: ``(batch, *result, rank)``, from -1 to 1, the last spatial axis first.
        mode: ``linear``, ``cubic`` or ``nearest``.
        padding: What is outside: ``zeros``, ``border`` or ``reflection``.
        align_corners: Whether -1 and 1 are the centers of the outermost elements, not their outer edges.

    Returns:
        ``(batch, channels, *result)``.
    """
    if not x.is_floating_point():
        return grid_sample(x.double(), grid, mode, padding, align_corners).to(x.dtype)
    rank = x.ndim - 2
    same = rank == 2 or (rank == 3 and mode != "cubic")
    if same and (mode, padding) != ("nearest", "reflection") and (x.is_cuda or x.dtype.itemsize > 2):
        return F.grid_sample(x, grid.to(x.dtype), _TORCH_MODES[mode], padding, align_corners)
    grid = grid.to(torch.promote_types(grid.dtype, torch.float32))  # 8 or 11 bits do not tell places apart
    at = [
        (place + 1) / 2 * (size - 1) if align_corners else ((place + 1) * size - 1) / 2
        for place, size in zip(grid.unbind(-1)[::-1], x.shape[2:], strict=True)
    ]
    return sample(x, at, mode, padding, align_corners)


def sample(x: Tensor, at: Sequence[Tensor], mode: str, padding: str, align_corners: bool) -> Tensor:
    """Sum over all combinations of the neighbours along each axis.

    Source: ONNX operator GridSample; a cubic at the border is ONNX Runtime's and torch's.

    Args:
        x: ``(batch, channels, *spatial)``.
        at: For each spatial axis the places, counted in elements, ``(batch, *result)``.
        mode: As in ``grid_sample``; so are the next two.
        padding: What is outside.
        align_corners: Whether ``reflection`` is at the centers of the outermost elements.
    """
    neighbours = [
        _neighbours(places, size, mode, padding, align_corners)
        for places, size in zip(at, x.shape[2:], strict=True)
    ]
    batch, channels = x.shape[:2]
    flat = x.flatten(2)
    result = x.new_zeros(())
    for corner in itertools.product(*neighbours):
        index, weight = torch.zeros_like(corner[0][0]), torch.ones_like(corner[0][1])
        for size, (place, share) in zip(x.shape[2:], corner, strict=True):
            index, weight = index * size + place, weight * share
        values = flat.gather(2, index.view(batch, 1, -1).expand(-1, channels, -1))
        result = result + values.view(batch, channels, *index.shape[1:]) * weight.unsqueeze(1)
    return result.to(x.dtype)


def _neighbours(
    at: Tensor, size: int, mode: str, padding: str, align_corners: bool
) -> list[tuple[Tensor, Tensor]]:
    """Along one axis: the elements that make up the value at each place, and how much of each."""
    low, high = (0.0, size - 1.0) if align_corners else (-0.5, size - 0.5)
    if mode == "nearest":
        at = at.round()
    if padding == "reflection":
        at = _reflect(at, low, high)
    below = at.floor()
    offsets = {"nearest": (0,), "linear": (0, 1), "cubic": (-1, 0, 1, 2)}[mode]
    neighbours = []
    for offset in offsets:
        place = below + offset
        distance = (place - at).abs()
        weight = cubic_kernel(distance, _CUBIC_COEFFICIENT) if mode == "cubic" else 1 - distance
        if mode == "nearest":
            weight = torch.ones_like(at)
        if padding == "zeros":
            weight = weight * ((place >= 0) & (place < size))
        elif padding == "reflection":
            place = _reflect(place, low, high)
        neighbours.append((place.clamp(0, size - 1).long(), weight))
    return neighbours


def _reflect(at: Tensor, low: float, high: float) -> Tensor:
    """Fold the line at both ends, as often as it takes."""
    span = high - low
    if span == 0:
        return torch.full_like(at, low)
    beyond = (at - low).abs()
    folds = (beyond / span).floor()
    rest = beyond - folds * span
    return torch.where(folds % 2 == 0, low + rest, high - rest)
