"""Operators that put tensors together and take them apart."""

from __future__ import annotations

__all__ = [
    "import_concat",
    "import_split",
    "import_split_by_attribute",
    "split_by_sizes",
    "split_evenly",
]

import math
from typing import Any

import onnx_ir as ir
import torch
from torch import Tensor

from .registry import integers, leaf, parts, register


@register("Concat", 4, 11, 13, moved=("xs",))
def import_concat(node: ir.Node, *xs: Tensor, axis: int) -> Tensor:
    """Import Concat."""
    return torch.cat(xs, axis)


@register("Split", 13, 18, moved=("x",), known=("split",))
def import_split(
    node: ir.Node,
    x: Tensor,
    split: Any | None = None,
    *,
    axis: int = 0,
    num_outputs: int | None = None,
) -> tuple[Tensor, ...]:
    """Import Split, into the sizes given or into as many equal parts as there are outputs."""
    return _split(node, x, split, axis)


@register("Split", 2, 11, moved=("x",))
def import_split_by_attribute(
    node: ir.Node, x: Tensor, *, axis: int = 0, split: tuple[int, ...] | None = None
) -> tuple[Tensor, ...]:
    """Import Split of before opset 13."""
    return _split(node, x, split, axis)


def _split(node: ir.Node, x: Tensor, sizes: Any | None, axis: int) -> tuple[Tensor, ...]:
    if sizes is None:
        return parts(split_evenly(x, len(node.outputs), axis), node)
    return parts(split_by_sizes(x, sizes, axis), node)


@leaf
def split_by_sizes(x: Tensor, sizes: Tensor | tuple[int, ...], axis: int) -> tuple[Tensor, ...]:
    """Parts of these sizes."""
    return torch.split(x, list(integers(sizes)), axis)


@leaf
def split_evenly(x: Tensor, count: int, axis: int) -> tuple[Tensor, ...]:
    """Parts of one size, the last ones smaller if need be."""
    total = x.shape[axis]
    size = math.ceil(total / count)
    return torch.split(x, [min(size, max(0, total - size * index)) for index in range(count)], axis)
