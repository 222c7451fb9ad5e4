"""Operators that only move elements, for ``reference.py``: from node and arrays to numpy.

The same on codes and on real values. ``onnx.reference`` knows them too, but takes a millisecond to start each
time, and differs from ONNX Runtime in the rounding of Resize.
"""

from __future__ import annotations

__all__ = ["OPERATORS"]

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from mpqtool.passes.values import int_attribute, text_attribute

Array = NDArray[Any]

_NO_END = (2**31 - 1, 2**63 - 1)
_TIE = np.float32(1e-6)
"""How far from the middle between two elements a place still is a tie: ONNX Runtime's."""


def _integers(value: Array | None, default: list[int]) -> list[int]:
    return default if value is None else [int(number) for number in value.reshape(-1)]


def _reshape(node: ir.Node, inputs: list[Any]) -> Array:
    x, shape = inputs
    sizes = _integers(shape, [])
    if not int_attribute(node, "allowzero", 0):
        sizes = [x.shape[axis] if size == 0 else size for axis, size in enumerate(sizes)]
    reshaped: Array = x.reshape(sizes)
    return reshaped


def _transpose(node: ir.Node, inputs: list[Any]) -> Array:
    transposed: Array = inputs[0].transpose(list(node.attributes.get_ints("perm", [])) or None)
    return transposed


def _squeeze(node: ir.Node, inputs: list[Any]) -> Array:
    axes = _integers(inputs[1], []) if len(inputs) > 1 else []
    squeezed: Array = np.squeeze(inputs[0], tuple(axes) or None)
    return squeezed


def _unsqueeze(node: ir.Node, inputs: list[Any]) -> Array:
    return np.expand_dims(inputs[0], tuple(_integers(inputs[1], [])))


def _slice(node: ir.Node, inputs: list[Any]) -> Array:
    x, starts, ends, axes, steps = (*inputs, None, None)[:5]
    firsts, lasts = _integers(starts, []), _integers(ends, [])
    taken = [slice(None)] * x.ndim
    places, strides = _integers(axes, [*range(len(firsts))]), _integers(steps, [1] * len(firsts))
    for axis, start, end, step in zip(places, firsts, lasts, strides, strict=True):
        size = x.shape[axis]
        first, last = (place + size if place < 0 else place for place in (start, end))
        if step > 0:
            taken[axis] = slice(max(first, 0), max(last, 0), step)
        else:  # Python would begin before the first element, where ONNX begins at it
            taken[axis] = slice(max(first, 0), None if last < 0 or end in _NO_END else last, step)
    part: Array = x[tuple(taken)]
    return part


def _split(node: ir.Node, inputs: list[Any]) -> tuple[Array, ...]:
    x, count, axis = inputs[0], len(node.outputs), int_attribute(node, "axis", 0)
    total = x.shape[axis]
    even = math.ceil(total / count)
    sizes = [min(even, max(0, total - even * index)) for index in range(count)]
    sizes = _integers(inputs[1], sizes) if len(inputs) > 1 else sizes
    return tuple(np.split(x, np.cumsum(sizes)[:-1], axis))


def _pad(node: ir.Node, inputs: list[Any]) -> Array:
    x, pads, value, axes = (*inputs, None, None)[:4]
    given, sides = _integers(pads, []), [(0, 0)] * x.ndim
    for index, axis in enumerate(_integers(axes, [*range(x.ndim)])):
        sides[axis] = (given[index], given[index + len(given) // 2])
    kept = [
        slice(max(-low, 0), size - max(-high, 0)) for (low, high), size in zip(sides, x.shape, strict=True)
    ]
    around = [(max(low, 0), max(high, 0)) for low, high in sides]
    mode = text_attribute(node, "mode", "constant")
    filled = {"constant_values": 0 if value is None else value.reshape(-1)[0]} if mode == "constant" else {}
    padded: Array = np.pad(x[tuple(kept)], around, mode=mode, **filled)  # type: ignore[call-overload]
    return padded


def _gather(node: ir.Node, inputs: list[Any]) -> Array:
    picked: Array = np.take(inputs[0], inputs[1], int_attribute(node, "axis", 0))
    return picked


def _expand(node: ir.Node, inputs: list[Any]) -> Array:
    x, shape = inputs
    return np.broadcast_to(x, np.broadcast_shapes(x.shape, tuple(_integers(shape, []))))


def _tile(node: ir.Node, inputs: list[Any]) -> Array:
    return np.tile(inputs[0], _integers(inputs[1], []))


def _depth_to_space(node: ir.Node, inputs: list[Any]) -> Array:
    (n, depth, h, w), block = inputs[0].shape, int_attribute(node, "blocksize", 1)
    channels = depth // block**2
    if text_attribute(node, "mode", "DCR") == "DCR":
        blocks = inputs[0].reshape(n, block, block, channels, h, w).transpose(0, 3, 4, 1, 5, 2)
    else:
        blocks = inputs[0].reshape(n, channels, block, block, h, w).transpose(0, 1, 4, 2, 5, 3)
    image: Array = blocks.reshape(n, channels, h * block, w * block)
    return image


def _space_to_depth(node: ir.Node, inputs: list[Any]) -> Array:
    (n, channels, h, w), block = inputs[0].shape, int_attribute(node, "blocksize", 1)
    blocks = inputs[0].reshape(n, channels, h // block, block, w // block, block)
    order = (0, 3, 5, 1, 2, 4) if text_attribute(node, "mode", "DCR") == "DCR" else (0, 1, 3, 5, 2, 4)
    deep: Array = blocks.transpose(order).reshape(n, -1, h // block, w // block)
    return deep


def _resize(node: ir.Node, inputs: list[Any]) -> Any:
    """Resize to the nearest element; NotImplemented for the others."""
    x, _, scales, sizes = (*inputs, None, None, None)[:4]
    coordinates = text_attribute(node, "coordinate_transformation_mode", "half_pixel")
    policy = text_attribute(node, "keep_aspect_ratio_policy", "stretch")
    if text_attribute(node, "mode", "nearest") != "nearest" or policy != "stretch":
        return NotImplemented
    if coordinates not in _COORDINATES:
        return NotImplemented
    axes = list(node.attributes.get_ints("axes", range(x.ndim)))
    by_size = sizes is not None and bool(sizes.size)
    nearest = _NEAREST[text_attribute(node, "nearest_mode", "round_prefer_floor")]
    old = [x.shape[axis] for axis in axes]
    new = [int(size) for size in (sizes if by_size else scales * np.array(old, np.float32))]
    if new == old:  # whatever the scales are
        return x
    for index, (axis, size) in enumerate(zip(axes, new, strict=True)):
        was = x.shape[axis]
        scale = np.float32(size) / np.float32(was) if by_size else np.float32(scales[index])
        at = _COORDINATES[coordinates](np.arange(size, dtype=np.float32), was, size, scale)
        x = np.take(x, np.clip(nearest(at).astype(np.int64), 0, was - 1), axis)
    return x


_Place = Callable[[Array, int, int, np.float32], Array]


def _half_pixel_symmetric(at: Array, was: int, size: int, scale: np.float32) -> Array:
    """Partly in float64, as in ONNX Runtime."""
    offset = was / 2 * (1 - size / float(scale * np.float32(was)))
    place: Array = (offset + (at.astype(np.float64) + 0.5) / scale - 0.5).astype(np.float32)
    return place


def _half_pixel(at: Array, was: int, size: int, scale: np.float32) -> Array:
    place: Array = (at + np.float32(0.5)) / scale - np.float32(0.5)
    return place


_COORDINATES: dict[str, _Place] = {
    "asymmetric": lambda at, was, size, scale: at / scale,
    "align_corners": lambda at, was, size, scale: at * np.float32(was - 1) / np.float32(max(size - 1, 1)),
    "half_pixel": _half_pixel,
    "half_pixel_symmetric": _half_pixel_symmetric,
    "pytorch_half_pixel": lambda at, was, size, scale: at if size == 1 else _half_pixel(at, was, size, scale),
}
"""The place in the input of each place in the result, in the order of ONNX Runtime's float32 operations."""

_NEAREST: dict[str, Callable[[Array], Array]] = {
    "floor": np.floor,
    "ceil": np.ceil,
    "round_prefer_floor": lambda at: np.floor(at) + (at - np.floor(at) > np.float32(0.5) + _TIE),
    "round_prefer_ceil": lambda at: np.floor(at) + (at - np.floor(at) >= np.float32(0.5) - _TIE),
}


OPERATORS: dict[tuple[str, str], Callable[[ir.Node, list[Any]], Any]] = {
    ("", "Reshape"): _reshape,
    ("", "Transpose"): _transpose,
    ("", "Squeeze"): _squeeze,
    ("", "Unsqueeze"): _unsqueeze,
    ("", "Slice"): _slice,
    ("", "Split"): _split,
    ("", "Pad"): _pad,
    ("", "Gather"): _gather,
    ("", "Expand"): _expand,
    ("", "Tile"): _tile,
    ("", "DepthToSpace"): _depth_to_space,
    ("", "SpaceToDepth"): _space_to_depth,
    ("", "Resize"): _resize,
}
"""(domain, operator) -> its first output, or a tuple of all; NotImplemented where ``float_ops.py`` is to."""
