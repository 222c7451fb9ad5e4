"""Operators that look for elements: where the largest is, which ones are the k largest."""

from __future__ import annotations

__all__ = ["arg_max", "arg_min", "import_arg_max", "import_arg_min", "import_top_k", "top_k"]

from collections.abc import Callable
from typing import Any

import onnx_ir as ir
import torch
from torch import Tensor

from .registry import integers, leaf, parts, register
from .unsigned import from_ordered, in_order


@register("ArgMax", 1, 11, 12, 13)
def import_arg_max(
    node: ir.Node, x: Tensor, *, axis: int = 0, keepdims: int = 1, select_last_index: int = 0
) -> Tensor:
    """Import ArgMax."""
    return arg_max(x, axis, bool(keepdims), bool(select_last_index))


@register("ArgMin", 1, 11, 12, 13)
def import_arg_min(
    node: ir.Node, x: Tensor, *, axis: int = 0, keepdims: int = 1, select_last_index: int = 0
) -> Tensor:
    """Import ArgMin."""
    return arg_min(x, axis, bool(keepdims), bool(select_last_index))


@leaf
def arg_max(x: Tensor, axis: int, keepdims: bool, last: bool) -> Tensor:
    """Index of the largest number, of the first or the last one of equals."""
    return _arg(torch.argmax, x, axis, keepdims, last)


@leaf
def arg_min(x: Tensor, axis: int, keepdims: bool, last: bool) -> Tensor:
    """Index of the smallest number, of the first or the last one of equals."""
    return _arg(torch.argmin, x, axis, keepdims, last)


def _arg(find: Callable[..., Tensor], x: Tensor, axis: int, keepdims: bool, last: bool) -> Tensor:
    x = in_order(x)
    if last:  # torch finds the first
        return x.shape[axis] - 1 - find(x.flip(axis), axis, keepdims)
    return find(x, axis, keepdims)


@register("TopK", 1)
def _import_top_k_1(node: ir.Node, x: Tensor, *, axis: int = -1, k: int) -> tuple[Tensor, ...]:
    return parts(top_k(x, k, axis, True), node)


@register("TopK", 10, 11, 24, known=("k",))
def import_top_k(
    node: ir.Node,
    x: Tensor,
    k: Any,
    *,
    axis: int = -1,
    largest: int = 1,
    sorted: int = 1,
) -> tuple[Tensor, ...]:
    """Import TopK. Without ``sorted`` any order will do, so it is the sorted one."""
    return parts(top_k(x, k, axis, bool(largest)), node)


@leaf
def top_k(x: Tensor, k: Any, axis: int, largest: bool) -> tuple[Tensor, Tensor]:
    """The ``k`` largest or smallest numbers in order, and their indices; of equals the lower index first."""
    (count,) = integers(k)
    numbers = in_order(x)
    if x.dtype.itemsize > 4 or x.dtype == torch.uint32:  # their keys are more than 64 bits
        values, indices = torch.sort(numbers, dim=axis, descending=largest, stable=True)
        values, indices = values.narrow(axis, 0, count), indices.narrow(axis, 0, count)
    else:
        indices = torch.topk(_keys(numbers.detach(), axis, largest), count, axis, largest=False).indices
        values = numbers.gather(axis, indices)
    return from_ordered(values, x.dtype), indices


def _keys(x: Tensor, axis: int, descending: bool) -> Tensor:
    """The number in the upper half, the index in the lower: ``torch.topk`` leaves the order of equals open.

    It is many times faster than a stable sort of everything.
    """
    if x.is_floating_point():
        bits = (x.float() + 0).view(torch.int32)  # the sum makes the negative zero equal to zero
        x = bits ^ (bits >> 31 & 0x7FFFFFFF)  # integers in the order of the floats
    index = torch.arange(x.shape[axis], device=x.device)
    index = index.view(-1, *[1] * (x.ndim - 1 - axis % x.ndim))
    return torch.add(index, ~x if descending else x, alpha=1 << 32)
