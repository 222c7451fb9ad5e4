"""Operators that give the elements of a tensor another shape, and those that tell the shape."""

from __future__ import annotations

__all__ = [
    "expand",
    "flatten",
    "import_expand",
    "import_flatten",
    "import_identity",
    "import_reshape",
    "import_shape",
    "import_size",
    "import_squeeze",
    "import_squeeze_by_attribute",
    "import_tile",
    "import_transpose",
    "import_unsqueeze",
    "import_unsqueeze_by_attribute",
    "reshape",
    "shape_of",
    "size_of",
    "squeeze",
    "tile",
    "transpose",
    "unsqueeze",
]

import math
from typing import Any

import onnx_ir as ir
import torch
from torch import Tensor

from .registry import integers, leaf, register


@register("Flatten", 1, 9, 11, 13, 21, 23, 24, 25, moved=("x",))
def import_flatten(node: ir.Node, x: Tensor, *, axis: int = 1) -> Tensor:
    """Import Flatten."""
    return flatten(x, axis)


@leaf
def flatten(x: Tensor, axis: int) -> Tensor:
    """A matrix: the axes before ``axis``, and the others."""
    axis = axis + x.ndim if axis < 0 else axis
    return x.reshape(math.prod(x.shape[:axis]), math.prod(x.shape[axis:]))


@register("Reshape", 5, 13, 14, 19, 21, 23, 24, 25, moved=("x",), known=("shape",))
def import_reshape(node: ir.Node, x: Tensor, shape: Any, *, allowzero: int = 0) -> Tensor:
    """Import Reshape."""
    return reshape(x, shape, bool(allowzero))


@leaf
def reshape(x: Tensor, shape: Tensor | tuple[int, ...], allow_zero: bool) -> Tensor:
    """ONNX Reshape: -1 is what remains, and 0 copies a size unless it is allowed to be one."""
    sizes = integers(shape)
    if allow_zero:
        return x.reshape(sizes)
    return x.reshape([x.shape[axis] if size == 0 else size for axis, size in enumerate(sizes)])


@register("Transpose", 1, 13, 21, 23, 24, 25, moved=("x",))
def import_transpose(node: ir.Node, x: Tensor, *, perm: tuple[int, ...] | None = None) -> Tensor:
    """Import Transpose."""
    return transpose(x, perm)


@leaf
def transpose(x: Tensor, perm: tuple[int, ...] | None) -> Tensor:
    """Reorder the axes; without ``perm`` reverse them."""
    return x.permute(perm or tuple(reversed(range(x.ndim))))


@register("Squeeze", 13, 21, 23, 24, 25, moved=("x",), known=("axes",))
def import_squeeze(node: ir.Node, x: Tensor, axes: Any | None = None) -> Tensor:
    """Import Squeeze."""
    return squeeze(x, axes)


@register("Squeeze", 1, 11, moved=("x",))
def import_squeeze_by_attribute(node: ir.Node, x: Tensor, *, axes: tuple[int, ...] | None = None) -> Tensor:
    """Import Squeeze of before opset 13."""
    return squeeze(x, axes)


@leaf
def squeeze(x: Tensor, axes: Tensor | tuple[int, ...] | None) -> Tensor:
    """Take axes of size 1 away; if none are given, or an empty list, all of them."""
    places = () if axes is None else integers(axes)
    return x.squeeze(places) if places else x.squeeze()


@register("Unsqueeze", 13, 21, 23, 24, 25, moved=("x",), known=("axes",))
def import_unsqueeze(node: ir.Node, x: Tensor, axes: Any) -> Tensor:
    """Import Unsqueeze."""
    return unsqueeze(x, axes)


@register("Unsqueeze", 1, 11, moved=("x",))
def import_unsqueeze_by_attribute(node: ir.Node, x: Tensor, *, axes: tuple[int, ...]) -> Tensor:
    """Import Unsqueeze of before opset 13."""
    return unsqueeze(x, axes)


@leaf
def unsqueeze(x: Tensor, axes: Tensor | tuple[int, ...]) -> Tensor:
    """Put axes of size 1 where the result is to have them."""
    places = integers(axes)
    rank = x.ndim + len(places)
    for axis in sorted(axis % rank for axis in places):
        x = x.unsqueeze(axis)
    return x


@register("Expand", 8, 13, learned_arrays=("x",), moved=("x",), known=("shape",))
def import_expand(node: ir.Node, x: Tensor, shape: Any) -> Tensor:
    """Import Expand; what is expanded may be a weight, as the class token of a transformer."""
    return expand(x, shape)


@leaf
def expand(x: Tensor, shape: Tensor | tuple[int, ...]) -> Tensor:
    """Broadcast ``x`` with a tensor of that shape: either may have the 1."""
    return x.expand(torch.broadcast_shapes(x.shape, integers(shape)))


@register("Tile", 6, 13, learned_arrays=("x",), moved=("x",), known=("repeats",))
def import_tile(node: ir.Node, x: Tensor, repeats: Any) -> Tensor:
    """Import Tile."""
    return tile(x, repeats)


@leaf
def tile(x: Tensor, repeats: Tensor | tuple[int, ...]) -> Tensor:
    """Copies beside each other, so many along each axis."""
    return x.repeat(integers(repeats))


@register("Identity", 1, 13, 14, 16, 19, 21, 23, 24, 25, moved=("x",))
def import_identity(node: ir.Node, x: Tensor) -> Tensor:
    """Import Identity."""
    return x


@register("Shape", 1, 13, 15, 19, 21, 23, 24, 25)
def import_shape(node: ir.Node, x: Tensor, *, start: int = 0, end: int | None = None) -> Tensor:
    """Import Shape."""
    return shape_of(x, start, end)


@leaf
def shape_of(x: Tensor, start: int, end: int | None) -> Tensor:
    """The sizes of the axes from ``start`` to ``end``; Python's rules for what lies outside are ONNX's."""
    return torch.tensor(x.shape[start:end], dtype=torch.int64, device=x.device)


@register("Size", 1, 13, 19, 21, 23, 24, 25)
def import_size(node: ir.Node, x: Tensor) -> Tensor:
    """Import Size."""
    return size_of(x)


@leaf
def size_of(x: Tensor) -> Tensor:
    """The number of elements."""
    return torch.tensor(x.numel(), device=x.device)
