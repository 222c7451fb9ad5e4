"""MaxUnpool and Col2Im: windows put back where they came from."""

from __future__ import annotations

__all__ = ["col2im", "import_col2im", "import_max_unpool", "max_unpool"]

import itertools
import math
from typing import Any

import onnx_ir as ir
from torch import Tensor
from torch.nn import functional as F

from .registry import integers, leaf, register
from .window import spatial_attributes, torch_pads


@register("MaxUnpool", 9, 11, 22, known=("output_shape",))
def import_max_unpool(
    node: ir.Node,
    x: Tensor,
    indices: Tensor,
    output_shape: Any | None = None,
    *,
    kernel_shape: tuple[int, ...],
    pads: tuple[int, ...] | None = None,
    strides: tuple[int, ...] | None = None,
) -> Tensor:
    """Import MaxUnpool."""
    stride, pads, _ = spatial_attributes(len(kernel_shape), strides, pads, None, "NOTSET")
    return max_unpool(x, indices, output_shape, kernel_shape, stride, pads)


@leaf
def max_unpool(
    x: Tensor,
    indices: Tensor,
    output_shape: Tensor | tuple[int, ...] | None,
    kernel: tuple[int, ...],
    stride: tuple[int, ...],
    pads: tuple[int, ...],
) -> Tensor:
    """Zeros, and the values of ``x`` at ``indices``, which are about the result seen as one row.

    So that it undoes MaxPool, as in ONNX Runtime, also where ``output_shape`` is larger than what kernel,
    stride and pads make of the shape of ``x``.
    """
    if output_shape is not None:
        shape = list(integers(output_shape))
    else:
        rank = len(kernel)
        sizes = [
            (size - 1) * stride[axis] + kernel[axis] - pads[axis] - pads[rank + axis]
            for axis, size in enumerate(x.shape[2:])
        ]
        shape = [*x.shape[:2], *sizes]
    return x.new_zeros(math.prod(shape)).index_put((indices.flatten(),), x.flatten()).view(shape)


@register("Col2Im", 18, known=("image_shape", "block_shape"))
def import_col2im(
    node: ir.Node,
    x: Tensor,
    image_shape: Any,
    block_shape: Any,
    *,
    dilations: tuple[int, ...] | None = None,
    pads: tuple[int, ...] | None = None,
    strides: tuple[int, ...] | None = None,
) -> Tensor:
    """Import Col2Im."""
    return col2im(x, image_shape, block_shape, strides, pads, dilations)


@leaf
def col2im(
    x: Tensor,
    image_shape: Tensor | tuple[int, ...],
    block_shape: Tensor | tuple[int, ...],
    strides: tuple[int, ...] | None,
    pads: tuple[int, ...] | None,
    dilations: tuple[int, ...] | None,
) -> Tensor:
    """Add up blocks ``(batch, channels * prod(block), blocks)`` in images ``(batch, channels, *image)``.

    As ``F.fold``, over any number of dimensions and with padding that differs between begin and end.
    """
    image, block = integers(image_shape), integers(block_shape)
    rank = len(image)
    stride, pads, dilation = spatial_attributes(rank, strides, pads, dilations, "NOTSET")
    padded = [image[axis] + pads[axis] + pads[rank + axis] for axis in range(rank)]
    counts = [
        (padded[axis] - (block[axis] - 1) * dilation[axis] - 1) // stride[axis] + 1 for axis in range(rank)
    ]
    columns = x.view(x.shape[0], -1, math.prod(block), *counts)
    y = x.new_zeros(*columns.shape[:2], *padded)
    for index, offset in enumerate(itertools.product(*map(range, block))):
        begins = [at * spread for at, spread in zip(offset, dilation, strict=True)]
        place: list[Any] = [
            slice(begin, begin + (count - 1) * step + 1, step)
            for begin, count, step in zip(begins, counts, stride, strict=True)
        ]
        y[(..., *place)] += columns[:, :, index]
    return F.pad(y, torch_pads(tuple(-side for side in pads)))
