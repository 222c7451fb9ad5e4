"""Operators that pick elements by index."""

from __future__ import annotations

__all__ = [
    "from_the_front",
    "gather",
    "gather_elements",
    "gather_nd",
    "import_gather",
    "import_gather_elements",
    "import_gather_nd",
]

import onnx_ir as ir
import torch
from torch import Tensor

from mpqtool.errors import DataError

from .bits import as_bits, of_bits
from .registry import leaf, register


def from_the_front(indices: Tensor, size: int) -> Tensor:
    """Indices that count from the end, where negative, as indices from 0 to ``size - 1``, int64."""
    indices = indices.long()
    return torch.where(indices < 0, indices + size, indices)


@register("Gather", 1, 11, 13, learned_arrays=("data",), moved=("data",))
def import_gather(node: ir.Node, data: Tensor, indices: Tensor, *, axis: int = 0) -> Tensor:
    """Import Gather; constant data are a table of embeddings and learn."""
    return gather(data, indices, axis)


@leaf
def gather(data: Tensor, indices: Tensor, axis: int) -> Tensor:
    """Slices of ``data`` in place of their indices on ``axis``.

    Raises:
        DataError: An index is none of those.
    """
    axis = axis % data.ndim
    places = from_the_front(indices, data.shape[axis])
    try:
        picked = data.index_select(axis, places.flatten())
    except IndexError as error:
        raise DataError(
            f"A Gather gets indices from {int(indices.min())} to {int(indices.max())}, and its table has "
            f"{data.shape[axis]} rows. Give samples with indices that the model has."
        ) from error
    return picked.reshape(data.shape[:axis] + indices.shape + data.shape[axis + 1 :])


@register("GatherElements", 11, 13, learned_arrays=("data",), moved=("data",))
def import_gather_elements(node: ir.Node, data: Tensor, indices: Tensor, *, axis: int = 0) -> Tensor:
    """Import GatherElements."""
    return gather_elements(data, indices, axis)


@leaf
def gather_elements(data: Tensor, indices: Tensor, axis: int) -> Tensor:
    """For each index the element at it on ``axis``, and at the place of the index on the other axes."""
    return of_bits(as_bits(data).gather(axis, from_the_front(indices, data.shape[axis])), data.dtype)


@register("GatherND", 11, 12, 13, learned_arrays=("data",), moved=("data",))
def import_gather_nd(node: ir.Node, data: Tensor, indices: Tensor, *, batch_dims: int = 0) -> Tensor:
    """Import GatherND."""
    return gather_nd(data, indices, batch_dims)


@leaf
def gather_nd(data: Tensor, indices: Tensor, batch_dims: int) -> Tensor:
    """The slices of ``data`` at index vectors.

    Args:
        data: ``(*batch, *indexed, *rest)``.
        indices: ``(*batch, *many, len(indexed))``.
        batch_dims: The rank of ``batch``.

    Returns:
        ``(*batch, *many, *rest)``.
    """
    vectors = indices.long()
    batch = [
        torch.arange(size, device=data.device).reshape(-1, *[1] * (vectors.ndim - 2 - axis))
        for axis, size in enumerate(data.shape[:batch_dims])
    ]
    return data[(*batch, *vectors.unbind(-1))]
