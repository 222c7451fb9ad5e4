"""Operators that keep a part of a tensor: a range of indices, a triangle."""

from __future__ import annotations

__all__ = [
    "import_slice",
    "import_slice_by_attribute",
    "import_trilu",
    "slice_axes",
    "triangle",
]

from typing import Any

import onnx_ir as ir
from torch import Tensor

from .bits import as_bits, of_bits
from .registry import integers, leaf, register

_NO_END = (2**31 - 1, 2**63 - 1)


@register("Slice", 10, 11, 13, moved=("x",), known=("starts", "ends", "axes", "steps"))
def import_slice(
    node: ir.Node,
    x: Tensor,
    starts: Any,
    ends: Any,
    axes: Any | None = None,
    steps: Any | None = None,
) -> Tensor:
    """Import Slice."""
    return slice_axes(x, starts, ends, axes, steps)


@register("Slice", 1, moved=("x",))
def import_slice_by_attribute(
    node: ir.Node,
    x: Tensor,
    *,
    starts: tuple[int, ...],
    ends: tuple[int, ...],
    axes: tuple[int, ...] | None = None,
) -> Tensor:
    """Import Slice of before opset 10."""
    return slice_axes(x, starts, ends, axes, None)


@leaf
def slice_axes(
    x: Tensor,
    starts: Tensor | tuple[int, ...],
    ends: Tensor | tuple[int, ...],
    axes: Tensor | tuple[int, ...] | None,
    steps: Tensor | tuple[int, ...] | None,
) -> Tensor:
    """ONNX Slice: every ``steps[i]``-th index of ``axes[i]`` from ``starts[i]`` on, before ``ends[i]``."""
    firsts, lasts = integers(starts), integers(ends)
    places = range(len(firsts)) if axes is None else integers(axes)
    strides = (1,) * len(firsts) if steps is None else integers(steps)
    index = [slice(None)] * x.ndim
    backwards = []
    for axis, start, end, step in zip(places, firsts, lasts, strides, strict=True):
        index[axis] = _ascending(start, end, step, x.shape[axis])
        if step < 0:
            backwards.append(axis)
    part = x[tuple(index)]
    return part.flip(backwards) if backwards else part


def _ascending(start: int, end: int, step: int, size: int) -> slice:
    """The slice of these indices in ascending order, as torch has no negative steps.

    For a negative step ONNX clamps the start to the first index, where Python goes before it, and ONNX
    Runtime takes the largest number for no end: version 10 of the standard knows no other.
    """
    if step < 0 and end in _NO_END:
        end = -size - 1
    taken = range(size)[max(start, -size) : end : step]
    if step > 0:
        return slice(taken.start, taken.stop, step)
    return slice(taken[-1], taken[0] + 1, -step) if taken else slice(0, 0)


@register("Trilu", 14, known=("k",))
def import_trilu(node: ir.Node, x: Tensor, k: Any = 0, *, upper: int = 1) -> Tensor:
    """Import Trilu."""
    return triangle(x, k, bool(upper))


@leaf
def triangle(x: Tensor, k: Tensor | tuple[int, ...] | int, upper: bool) -> Tensor:
    """The elements on and above, or on and below, diagonal ``k`` of each matrix; the others are 0."""
    (diagonal,) = integers(k)
    bits = as_bits(x)
    return of_bits(bits.triu(diagonal) if upper else bits.tril(diagonal), x.dtype)
