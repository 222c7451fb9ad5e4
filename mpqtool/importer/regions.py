"""RoiAlign and MaxRoiPool: parts of images, each made the same size."""

from __future__ import annotations

__all__ = ["import_max_roi_pool", "import_roi_align", "import_roi_align_10", "max_roi_pool", "roi_align"]

import math
from typing import NamedTuple

import onnx_ir as ir
import torch
from torch import Tensor
from torch.nn import functional as F

from .attributes import one_of
from .registry import leaf, register

_MODES = ("avg", "max")
_COORDINATES = ("half_pixel", "output_half_pixel")


@register("RoiAlign", 16, 22)
def import_roi_align(
    node: ir.Node,
    x: Tensor,
    rois: Tensor,
    batch_indices: Tensor,
    *,
    coordinate_transformation_mode: str = "half_pixel",
    mode: str = "avg",
    output_height: int = 1,
    output_width: int = 1,
    sampling_ratio: int = 0,
    spatial_scale: float = 1.0,
) -> Tensor:
    """Import RoiAlign."""
    mode = one_of(node, "mode", mode, _MODES)
    one_of(node, "coordinate_transformation_mode", coordinate_transformation_mode, _COORDINATES)
    half_pixel = coordinate_transformation_mode == "half_pixel"
    size = (output_height, output_width)
    return roi_align(x, rois, batch_indices, size, mode, sampling_ratio, spatial_scale, half_pixel)


@register("RoiAlign", 10)
def import_roi_align_10(
    node: ir.Node,
    x: Tensor,
    rois: Tensor,
    batch_indices: Tensor,
    *,
    mode: str = "avg",
    output_height: int = 1,
    output_width: int = 1,
    sampling_ratio: int = 0,
    spatial_scale: float = 1.0,
) -> Tensor:
    """Import RoiAlign of opsets 10 to 15, which does not shift by half a pixel."""
    mode, size = one_of(node, "mode", mode, _MODES), (output_height, output_width)
    return roi_align(x, rois, batch_indices, size, mode, sampling_ratio, spatial_scale, False)


@leaf
def roi_align(
    x: Tensor,
    rois: Tensor,
    batch_indices: Tensor,
    size: tuple[int, int],
    mode: str,
    sampling_ratio: int,
    spatial_scale: float,
    half_pixel: bool,
) -> Tensor:
    """Read each region at a grid of points, by bilinear interpolation, and pool the points of each bin.

    Source: He et al., Mask R-CNN, section 3; the details are those of the ONNX reference implementation,
    as that ``max`` is taken over the four terms of every interpolation, not over their sums.

    Args:
        x: ``(batch, channels, height, width)``.
        rois: ``(regions, 4)``: x and y of the begin, x and y of the end, in pixels over ``spatial_scale``.
        batch_indices: ``(regions,)``, the image of each.
        size: Height and width of the result.
        mode: ``avg`` or ``max``.
        sampling_ratio: Points a bin along each axis; 0 for one a pixel.
        spatial_scale: Pixels of ``x`` in a unit of ``rois``.
        half_pixel: Whether pixel 0 reaches from 0 to 1, not from -0.5 to 0.5.

    Returns:
        ``(regions, channels, *size)``.
    """
    corners = rois * spatial_scale - (0.5 if half_pixel else 0.0)
    results = []
    for region, image in zip(corners, batch_indices.tolist(), strict=True):
        spans = ((region[1], region[3]), (region[0], region[2]))
        rows, columns = (
            _points(begin, end if half_pixel else torch.maximum(end, begin + 1), bins, sampling_ratio, limit)
            for (begin, end), bins, limit in zip(spans, size, x.shape[2:], strict=True)
        )
        terms = torch.stack(
            [
                x[image][:, row[:, None], column] * row_weight[:, None] * column_weight
                for row, row_weight in ((rows.low, 1 - rows.part), (rows.high, rows.part))
                for column, column_weight in ((columns.low, 1 - columns.part), (columns.high, columns.part))
            ]
        )
        terms = terms * rows.inside[:, None] * columns.inside
        if not terms.numel():  # a region of no size has no points
            results.append(x.new_zeros(x.shape[1], *size))
            continue
        points = (terms.amax(0) if mode == "max" else terms.sum(0)).unflatten(2, (size[1], -1))
        points = points.unflatten(1, (size[0], -1))
        results.append(points.amax((2, 4)) if mode == "max" else points.mean((2, 4)))
    return torch.stack(results) if results else x.new_zeros(0, x.shape[1], *size)


class _Points(NamedTuple):
    """Points along one axis: the pixels around each, its part of the way, and whether it is in the image."""

    low: Tensor
    high: Tensor
    part: Tensor
    inside: Tensor


def _points(begin: Tensor, end: Tensor, bins: int, sampling_ratio: int, limit: int) -> _Points:
    width = (end - begin) / bins
    count = sampling_ratio if sampling_ratio > 0 else max(math.ceil(float(width)), 0)
    steps = torch.arange(bins * count, dtype=begin.dtype, device=begin.device)
    at = begin + (steps + 0.5) * width / max(count, 1)
    inside = (at >= -1) & (at <= limit)
    at = at.clamp(0, limit - 1)
    low = at.floor()
    return _Points(low.long(), (low.long() + 1).clamp(max=limit - 1), at - low, inside)


@register("MaxRoiPool", 1, 22)
def import_max_roi_pool(
    node: ir.Node, x: Tensor, rois: Tensor, *, pooled_shape: tuple[int, int], spatial_scale: float = 1.0
) -> Tensor:
    """Import MaxRoiPool."""
    return max_roi_pool(x, rois, pooled_shape, spatial_scale)


@leaf
def max_roi_pool(x: Tensor, rois: Tensor, size: tuple[int, int], spatial_scale: float) -> Tensor:
    """The largest of each bin of each region; 0 where a bin is outside of the image.

    Source: Girshick, Fast R-CNN, section 2.1.

    Args:
        x: ``(batch, channels, height, width)``.
        rois: ``(regions, 5)``: the image, x and y of the first pixel, x and y of the last.
        size: Height and width of the result.
        spatial_scale: Pixels of ``x`` in a unit of ``rois``.
    """
    height, width = x.shape[2:]
    results = []
    corners = (rois[:, 1:] * spatial_scale + 0.5).floor().long().tolist()
    for image, (left, top, right, bottom) in zip(rois[:, 0].long().tolist(), corners, strict=True):
        right, bottom = max(right, left) + 1, max(bottom, top) + 1
        if left >= width or top >= height or right <= 0 or bottom <= 0:
            results.append(x.new_zeros(x.shape[1], *size))
            continue
        outside = (-left, right - width, -top, bottom - height)
        region = F.pad(x[image], outside, value=-torch.inf)  # a negative pad cuts off
        results.append(F.adaptive_max_pool2d(region, size))
    y = torch.stack(results) if results else x.new_zeros(0, x.shape[1], *size)
    return torch.where(y == -torch.inf, 0.0, y)
