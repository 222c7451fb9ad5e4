"""Operators that pick elements by what the data are: their number or order is not known beforehand."""

from __future__ import annotations

__all__ = [
    "compress",
    "import_compress",
    "import_non_zero",
    "import_reverse_sequence",
    "import_unique",
    "non_zero",
    "reverse_sequence",
    "unique",
]

import onnx_ir as ir
import torch
from torch import Tensor

from .bits import as_bits, of_bits
from .registry import leaf, parts, register


@register("Compress", 9, 11, 28)
def import_compress(node: ir.Node, x: Tensor, condition: Tensor, *, axis: int | None = None) -> Tensor:
    """Import Compress."""
    return compress(x, condition, axis)


@leaf
def compress(x: Tensor, condition: Tensor, axis: int | None) -> Tensor:
    """The slices of an axis, or without one the elements, for which the condition is true.

    The condition may be shorter than the axis; what is beyond it is left out.
    """
    taken = condition.nonzero().flatten()
    return x.flatten().index_select(0, taken) if axis is None else x.index_select(axis, taken)


@register("NonZero", 9, 13)
def import_non_zero(node: ir.Node, x: Tensor) -> Tensor:
    """Import NonZero."""
    return non_zero(x)


@leaf
def non_zero(x: Tensor) -> Tensor:
    """Where the elements are that are not 0: ``(rank, count)``, int64."""
    return (x != 0).nonzero().T


@register("Unique", 11, 28)
def import_unique(
    node: ir.Node, x: Tensor, *, axis: int | None = None, sorted: int = 1
) -> tuple[Tensor, ...]:
    """Import Unique."""
    return parts(unique(x, axis, bool(sorted)), node)


@leaf
def unique(x: Tensor, axis: int | None, in_order: bool) -> tuple[Tensor, ...]:
    """The different elements, or slices of an axis.

    Returns:
        The elements, sorted or else in the order of their first occurrence; the index of that; for each
        element of ``x`` which of these it is; how many of ``x`` are that.
    """
    if axis is None:
        x, axis = x.flatten(), 0
    comparable = x.float() if x.dtype.itemsize == 1 and x.is_floating_point() else x
    _, inverse, counts = torch.unique(comparable, return_inverse=True, return_counts=True, dim=axis)
    places = torch.arange(len(inverse), device=x.device)
    first = places.new_zeros(len(counts)).scatter_reduce(0, inverse, places, "amin", include_self=False)
    if not in_order:
        order = first.argsort()
        first, counts, inverse = first[order], counts[order], order.argsort()[inverse]
    return x.index_select(axis, first), first, inverse, counts


@register("ReverseSequence", 10, 28)
def import_reverse_sequence(
    node: ir.Node, x: Tensor, sequence_lens: Tensor, *, batch_axis: int = 1, time_axis: int = 0
) -> Tensor:
    """Import ReverseSequence."""
    return reverse_sequence(x, sequence_lens, batch_axis, time_axis)


@leaf
def reverse_sequence(x: Tensor, lengths: Tensor, batch_axis: int, time_axis: int) -> Tensor:
    """Turn the first ``lengths[i]`` steps of sequence ``i`` around; the steps after them stay."""
    times = torch.arange(x.shape[time_axis], device=x.device)
    ends = lengths.long().unsqueeze(1)
    sources = torch.where(times < ends, ends - 1 - times, times)  # (batch, time)
    sources = sources if batch_axis < time_axis else sources.T
    shape = [size if axis in (batch_axis, time_axis) else 1 for axis, size in enumerate(x.shape)]
    sources = sources.reshape(shape).expand(x.shape)
    return of_bits(as_bits(x).gather(time_axis, sources), x.dtype)
