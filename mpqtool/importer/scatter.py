"""Operators that put updates into a tensor by index."""

from __future__ import annotations

__all__ = [
    "import_scatter_elements",
    "import_scatter_nd",
    "import_tensor_scatter",
    "scatter_elements",
    "scatter_nd",
    "write_cache",
]

import math

import onnx_ir as ir
import torch
from torch import Tensor

from .bits import as_bits, of_bits
from .indexing import from_the_front
from .registry import leaf, register, unsupported
from .unsigned import as_int64, from_ordered, in_order

_REDUCTIONS = {"none": None, "add": "sum", "mul": "prod", "max": "amax", "min": "amin"}


@register("ScatterElements", 11, 13, 16, 18)
@register("Scatter", 9)
def import_scatter_elements(
    node: ir.Node, data: Tensor, indices: Tensor, updates: Tensor, *, axis: int = 0, reduction: str = "none"
) -> Tensor:
    """Import ScatterElements, and Scatter, as it was called before opset 11."""
    return scatter_elements(data, indices, updates, axis, _reduction(node, reduction))


@register("ScatterND", 11, 13, 16, 18)
def import_scatter_nd(
    node: ir.Node, data: Tensor, indices: Tensor, updates: Tensor, *, reduction: str = "none"
) -> Tensor:
    """Import ScatterND."""
    return scatter_nd(data, indices, updates, _reduction(node, reduction))


def _reduction(node: ir.Node, name: str) -> str | None:
    if name not in _REDUCTIONS:
        raise unsupported(node, f"reduction={name!r}, and handled are {', '.join(map(repr, _REDUCTIONS))}")
    return _REDUCTIONS[name]


@leaf
def scatter_elements(
    data: Tensor, indices: Tensor, updates: Tensor, axis: int, reduction: str | None
) -> Tensor:
    """Put each update at its index on ``axis``, and at its own place on the other axes.

    Args:
        data: Any shape.
        indices: Its rank; may count from the end.
        updates: The shape of ``indices``.
        axis: The axis of the indices.
        reduction: How torch names what is done with the old element and the updates; None replaces it.
    """
    places = from_the_front(indices, data.shape[axis])
    if reduction is None:
        return of_bits(as_bits(data).scatter(axis, places, as_bits(updates)), data.dtype)
    if reduction in ("amax", "amin"):
        best = in_order(data).scatter_reduce(axis, places, in_order(updates), reduction)
        return from_ordered(best, data.dtype)
    return as_int64(data).scatter_reduce(axis, places, as_int64(updates), reduction).to(data.dtype)


@leaf
def scatter_nd(data: Tensor, indices: Tensor, updates: Tensor, reduction: str | None) -> Tensor:
    """Put slices at index vectors.

    Args:
        data: ``(*indexed, *rest)``.
        indices: ``(*many, len(indexed))``.
        updates: ``(*many, *rest)``.
        reduction: See ``scatter_elements``.
    """
    indexed, rest = data.shape[: indices.shape[-1]], math.prod(data.shape[indices.shape[-1] :])
    rows = torch.zeros(indices.shape[:-1], dtype=torch.int64, device=indices.device)
    for place, size in zip(indices.unbind(-1), indexed, strict=True):
        rows = rows * size + from_the_front(place, size)
    table = data.reshape(math.prod(indexed), rest)
    rows = rows.reshape(-1, 1).expand(-1, rest)
    return scatter_elements(table, rows, updates.reshape(rows.shape), 0, reduction).reshape(data.shape)


@register("TensorScatter", 24)
def import_tensor_scatter(
    node: ir.Node,
    past_cache: Tensor,
    update: Tensor,
    write_indices: Tensor | None = None,
    *,
    axis: int = -2,
    mode: str = "linear",
) -> Tensor:
    """Import TensorScatter."""
    if mode not in ("linear", "circular"):
        raise unsupported(node, f"mode={mode!r}, and handled are 'linear', 'circular'")
    return write_cache(past_cache, update, write_indices, axis, mode == "circular")


@leaf
def write_cache(cache: Tensor, update: Tensor, begins: Tensor | None, axis: int, circular: bool) -> Tensor:
    """Write ``update[i]`` over ``cache[i]``, from index ``begins[i]`` of ``axis`` on.

    Args:
        cache: ``(batch, ..., room, ...)``.
        update: ``(batch, ..., steps, ...)``, ``steps`` on ``axis``.
        begins: ``(batch,)``, 0 if None.
        axis: Not the first.
        circular: Whether index ``room`` is index 0.
    """
    places = torch.arange(update.shape[axis], device=update.device).unsqueeze(0)  # (batch, steps)
    if begins is not None:
        places = places + begins.long().unsqueeze(1)
    if circular:
        places = places % cache.shape[axis]
    after = update.ndim - 1 - axis % update.ndim
    shape = (len(places), *[1] * (update.ndim - 2 - after), places.shape[1], *[1] * after)
    places = places.reshape(shape).expand(update.shape)
    return scatter_elements(cache, places, update, axis, None)
