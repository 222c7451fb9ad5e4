"""Operators that move elements and compute nothing."""

from __future__ import annotations

__all__ = [
    "flatten",
    "import_concat",
    "import_dropout",
    "import_flatten",
    "import_identity",
    "import_pad",
    "import_reshape",
    "import_slice",
    "import_split",
    "import_squeeze",
    "import_transpose",
    "import_unsqueeze",
    "pad",
    "reshape",
    "slice_axes",
    "split_evenly",
    "transpose",
    "unsqueeze",
]

import math
from typing import Any

import onnx_ir as ir
import torch
from torch import Tensor
from torch.nn import functional as F

from .registry import leaf, register, unsupported
from .window import torch_pads


@register("Flatten", 1, 9, 11, 13, 21, 23, 24, 25)
def import_flatten(node: ir.Node, x: Tensor, *, axis: int = 1) -> Tensor:
    """Import Flatten."""
    return flatten(x, axis)


@leaf
def flatten(x: Tensor, axis: int) -> Tensor:
    """A matrix: the axes before ``axis``, and the others."""
    axis = axis + x.ndim if axis < 0 else axis
    return x.reshape(math.prod(x.shape[:axis]), math.prod(x.shape[axis:]))


@register("Reshape", 5, 13, 14, 19, 21, 23, 24, 25, known=("shape",))
def import_reshape(node: ir.Node, x: Tensor, shape: Any, *, allowzero: int = 0) -> Tensor:
    """Import Reshape; the shape must be a constant, in which 0 copies a size and -1 is what remains."""
    return reshape(x, tuple(shape), bool(allowzero))


@leaf
def reshape(x: Tensor, shape: tuple[int, ...], allow_zero: bool) -> Tensor:
    """ONNX Reshape."""
    if allow_zero:
        return x.reshape(shape)
    return x.reshape([x.shape[axis] if size == 0 else size for axis, size in enumerate(shape)])


@register("Transpose", 1, 13, 21, 23, 24, 25)
def import_transpose(node: ir.Node, x: Tensor, *, perm: tuple[int, ...] | None = None) -> Tensor:
    """Import Transpose."""
    return transpose(x, perm)


@leaf
def transpose(x: Tensor, perm: tuple[int, ...] | None) -> Tensor:
    """Reorder the axes; without ``perm`` reverse them."""
    return x.permute(perm or tuple(reversed(range(x.ndim))))


@register("Squeeze", 13, 21, 23, 24, 25, known=("axes",))
def import_squeeze(node: ir.Node, x: Tensor, axes: Any | None = None) -> Tensor:
    """Import Squeeze."""
    return torch.squeeze(x) if axes is None else torch.squeeze(x, dim=tuple(axes))


@register("Unsqueeze", 13, 21, 23, 24, 25, known=("axes",))
def import_unsqueeze(node: ir.Node, x: Tensor, axes: Any) -> Tensor:
    """Import Unsqueeze."""
    return unsqueeze(x, tuple(axes))


@leaf
def unsqueeze(x: Tensor, axes: tuple[int, ...]) -> Tensor:
    """Put axes of size 1 where the result is to have them."""
    rank = x.ndim + len(axes)
    for axis in sorted(axis % rank for axis in axes):
        x = x.unsqueeze(axis)
    return x


@register("Concat", 4, 11, 13)
def import_concat(node: ir.Node, *xs: Tensor, axis: int) -> Tensor:
    """Import Concat."""
    return torch.cat(xs, axis)


@register("Slice", 10, 11, 13, known=("starts", "ends", "axes", "steps"))
def import_slice(
    node: ir.Node,
    x: Tensor,
    starts: Any,
    ends: Any,
    axes: Any | None = None,
    steps: Any | None = None,
) -> Tensor:
    """Import Slice.

    Raises:
        UnsupportedOpError: A step is negative, which torch cannot do.
    """
    if steps is not None and min(steps) < 1:
        raise unsupported(node, f"steps={list(steps)}, and only positive ones are handled")
    count = len(starts)
    axis = range(count) if axes is None else axes
    step = [1] * count if steps is None else steps
    return slice_axes(x, tuple(zip(axis, starts, ends, step, strict=True)))


@leaf
def slice_axes(x: Tensor, cuts: tuple[tuple[int, int, int, int], ...]) -> Tensor:
    """Cut ``(axis, start, end, step)``; Python's rules for what lies outside are ONNX's."""
    index = [slice(None)] * x.ndim
    for axis, start, end, step in cuts:
        index[axis] = slice(start, end, step)
    return x[tuple(index)]


@register("Split", 13, 18, known=("split",))
def import_split(
    node: ir.Node,
    x: Tensor,
    split: Any | None = None,
    *,
    axis: int = 0,
    num_outputs: int | None = None,
) -> tuple[Tensor, ...]:
    """Import Split, into the sizes given or into as many equal parts as there are outputs."""
    count = len(node.outputs)
    parts = split_evenly(x, count, axis) if split is None else torch.split(x, split, axis)
    return tuple(parts[index] for index in range(count))


@leaf
def split_evenly(x: Tensor, count: int, axis: int) -> tuple[Tensor, ...]:
    """Parts of one size, the last one smaller if need be."""
    return torch.split(x, math.ceil(x.shape[axis] / count), axis)


@register("Pad", 11, 13, 18, 19, 21, 23, 24, 25, known=("pads", "constant_value", "axes"))
def import_pad(
    node: ir.Node,
    x: Tensor,
    pads: Any,
    constant_value: Any | None = None,
    axes: Any | None = None,
    *,
    mode: str = "constant",
) -> Tensor:
    """Import Pad.

    Raises:
        UnsupportedOpError: The mode is not ``constant``.
    """
    if mode != "constant":
        raise unsupported(node, f"mode={mode!r}, and only 'constant' is handled")
    value = 0 if constant_value is None else constant_value
    return pad(x, tuple(pads), value, None if axes is None else tuple(axes))


@leaf
def pad(x: Tensor, pads: tuple[int, ...], value: float, axes: tuple[int, ...] | None) -> Tensor:
    """ONNX Pad: ``pads`` are all begins and then all ends, of ``axes`` or of every axis."""
    every = [0] * (2 * x.ndim)
    for index, axis in enumerate(range(x.ndim) if axes is None else axes):
        every[axis % x.ndim] = pads[index]
        every[axis % x.ndim + x.ndim] = pads[index + len(pads) // 2]
    return F.pad(x, torch_pads(tuple(every)), value=value)


@register("Identity", 1, 13, 14, 16, 19, 21, 23, 24, 25)
def import_identity(node: ir.Node, x: Tensor) -> Tensor:
    """Import Identity."""
    return x


@register("Dropout", 7, 10, 12, 13, 22, known=("share", "training_mode"))
def import_dropout(
    node: ir.Node,
    x: Tensor,
    share: Any | None = None,
    training_mode: Any | None = None,
    *,
    ratio: float = 0.5,
    seed: int | None = None,
) -> Tensor:
    """Import Dropout: what it is at inference, nothing.

    Raises:
        UnsupportedOpError: The file asks for dropout at inference.
    """
    if training_mode is not None and training_mode:
        raise unsupported(node, "training_mode is true, export the model in evaluation mode")
    return x
