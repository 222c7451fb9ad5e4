"""Operators that put elements around a tensor."""

from __future__ import annotations

__all__ = [
    "center",
    "import_center_crop_pad",
    "import_pad",
    "import_pad_by_attribute",
    "pad",
    "pad_by_copies",
]

from collections.abc import Callable
from typing import Any

import onnx_ir as ir
import torch
from torch import Tensor
from torch.nn import functional as F

from .registry import integers, leaf, register, unsupported
from .window import torch_pads


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
        UnsupportedOpError: The mode is not one of the standard.
    """
    if mode == "constant":
        return pad(x, pads, 0 if constant_value is None else constant_value, axes)
    if mode not in _COPIED:
        raise unsupported(node, f"mode={mode!r}, and handled are 'constant', {', '.join(map(repr, _COPIED))}")
    return pad_by_copies(x, pads, axes, mode)


@register("Pad", 2)
def import_pad_by_attribute(
    node: ir.Node, x: Tensor, *, pads: tuple[int, ...], mode: str = "constant", value: float = 0.0
) -> Tensor:
    """Import Pad of before opset 11."""
    return import_pad(node, x, pads, value, mode=mode)


@leaf
def pad(
    x: Tensor,
    pads: Tensor | tuple[int, ...],
    value: Tensor | tuple[float, ...] | float,
    axes: Tensor | tuple[int, ...] | None,
) -> Tensor:
    """Pad with one value; a negative pad takes elements away.

    Args:
        x: Any shape.
        pads: All begins and then all ends, of ``axes`` or of every axis.
        value: A number, or one in a list.
        axes: The axes, None for all.
    """
    sides = torch_pads(_of_every_axis(x, pads, axes))
    if not isinstance(value, Tensor):  # F.pad would take an integer for a float
        return torch.constant_pad_nd(x, sides, value[0] if isinstance(value, tuple) else value)
    inside = F.pad(torch.ones_like(x, dtype=torch.bool), sides)
    return torch.where(inside, F.pad(x, sides), value.reshape(()))


@leaf
def pad_by_copies(
    x: Tensor, pads: Tensor | tuple[int, ...], axes: Tensor | tuple[int, ...] | None, mode: str
) -> Tensor:
    """Pad with elements of the tensor itself, after negative pads have taken theirs away; see ``pad``."""
    sides = _of_every_axis(x, pads, axes)
    x = F.pad(x, torch_pads(tuple(min(side, 0) for side in sides)))
    for axis in range(x.ndim):
        before, after, size = max(sides[axis], 0), max(sides[axis + x.ndim], 0), x.shape[axis]
        if before or after:
            places = torch.arange(-before, size + after, device=x.device)
            x = x.index_select(axis, _COPIED[mode](places, size))
    return x


def _of_every_axis(
    x: Tensor, pads: Tensor | tuple[int, ...], axes: Tensor | tuple[int, ...] | None
) -> tuple[int, ...]:
    given = integers(pads)
    sides = [0] * (2 * x.ndim)
    for index, axis in enumerate(range(x.ndim) if axes is None else integers(axes)):
        sides[axis % x.ndim] = given[index]
        sides[axis % x.ndim + x.ndim] = given[index + len(given) // 2]
    return tuple(sides)


def _edge(places: Tensor, size: int) -> Tensor:
    return places.clamp(0, size - 1)


def _reflect(places: Tensor, size: int) -> Tensor:
    """To and fro between the ends, neither of which is repeated."""
    period = max(2 * (size - 1), 1)
    places = places % period
    return torch.minimum(places, period - places) if size > 1 else places


def _wrap(places: Tensor, size: int) -> Tensor:
    return places % size


_COPIED: dict[str, Callable[[Tensor, int], Tensor]] = {"edge": _edge, "reflect": _reflect, "wrap": _wrap}
"""Which element an index outside of ``[0, size)`` stands for."""


@register("CenterCropPad", 18, known=("shape",))
def import_center_crop_pad(
    node: ir.Node, x: Tensor, shape: Any, *, axes: tuple[int, ...] | None = None
) -> Tensor:
    """Import CenterCropPad."""
    return center(x, shape, axes)


@leaf
def center(x: Tensor, shape: Tensor | tuple[int, ...], axes: tuple[int, ...] | None) -> Tensor:
    """Crop or pad with zeros to these sizes; an odd element goes or comes at the end."""
    sizes = integers(shape)
    begins, ends = [0] * x.ndim, [0] * x.ndim
    for axis, size in zip(range(x.ndim) if axes is None else axes, sizes, strict=True):
        missing = size - x.shape[axis]
        begins[axis] = int(missing / 2)  # toward 0, so that cropping rounds its start down, too
        ends[axis] = missing - begins[axis]
    return F.pad(x, torch_pads((*begins, *ends)))
