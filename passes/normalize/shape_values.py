"""What a vector of sizes holds, as far as it can be seen without running the model."""

from __future__ import annotations

__all__ = ["SizeOf", "sizes"]

from collections.abc import Sequence
from typing import NamedTuple

import onnx_ir as ir

from ..values import array, int_attribute, is_op


class SizeOf(NamedTuple):
    """One dimension of a value, its size not known."""

    value: ir.Value
    axis: int


def sizes(value: ir.Value | None) -> list[int | SizeOf] | None:
    """The elements of an integer vector or scalar; None if it is made in a way not followed here.

    Follows Shape, Gather and Slice of one, Concat, and what changes only the rank or type.
    """
    numbers = array(value)
    if numbers is not None:
        return [int(number) for number in numbers.ravel()] if numbers.dtype.kind == "i" else None
    node = value.producer() if value is not None else None
    if node is None:
        return None
    if is_op(node, "Shape"):
        return _of_shape(node)
    if is_op(node, "Cast", "Identity", "Reshape", "Squeeze", "Unsqueeze"):
        return sizes(node.inputs[0])
    parts = [sizes(source) for source in node.inputs]
    known = [part for part in parts if part is not None]
    if len(known) != len(parts):
        return None
    if is_op(node, "Concat"):
        return [element for part in known for element in part]
    if is_op(node, "Gather"):
        return _pick(known[0], known[1])
    if is_op(node, "Slice") and len(known[1]) == 1:
        return _slice(known)
    return None


def _of_shape(node: ir.Node) -> list[int | SizeOf] | None:
    source = node.inputs[0]
    if source is None or source.shape is None:
        return None
    dims = [dim if isinstance(dim, int) else SizeOf(source, axis) for axis, dim in enumerate(source.shape)]
    return dims[int_attribute(node, "start", 0) : int_attribute(node, "end", len(dims))]


def _pick(elements: Sequence[int | SizeOf], places: Sequence[int | SizeOf]) -> list[int | SizeOf] | None:
    chosen = [place for place in places if isinstance(place, int) and -len(elements) <= place < len(elements)]
    return [elements[place] for place in chosen] if len(chosen) == len(places) else None


def _slice(parts: Sequence[Sequence[int | SizeOf]]) -> list[int | SizeOf] | None:
    elements, (start, *_), (stop, *_), *more = parts
    step = more[1][0] if len(more) > 1 else 1
    if isinstance(start, SizeOf) or isinstance(stop, SizeOf) or isinstance(step, SizeOf):
        return None
    return list(elements[start:stop:step])
