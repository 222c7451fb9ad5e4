"""Softmax and its kin: a distribution over an axis."""

from __future__ import annotations

__all__ = [
    "flat_hardmax",
    "flat_log_softmax",
    "flat_softmax",
    "hardmax",
    "import_hardmax",
    "import_hardmax_1",
    "import_log_softmax",
    "import_log_softmax_1",
    "import_softmax",
    "import_softmax_1",
]

import onnx_ir as ir
import torch
from torch import Tensor

from .registry import leaf, register


@register("Softmax", 13)
def import_softmax(node: ir.Node, x: Tensor, *, axis: int = -1) -> Tensor:
    """Import Softmax."""
    return torch.softmax(x, axis)


@register("LogSoftmax", 13)
def import_log_softmax(node: ir.Node, x: Tensor, *, axis: int = -1) -> Tensor:
    """Import LogSoftmax."""
    return torch.log_softmax(x, axis)


@register("Hardmax", 13)
def import_hardmax(node: ir.Node, x: Tensor, *, axis: int = -1) -> Tensor:
    """Import Hardmax."""
    return hardmax(x, axis)


@leaf
def hardmax(x: Tensor, axis: int) -> Tensor:
    """1 at the first of the largest elements along the axis, 0 elsewhere."""
    return torch.zeros_like(x).scatter(axis, x.argmax(axis, keepdim=True), 1)


# Before opset 13 these are over all axes from ``axis`` on, taken for one.


@register("Softmax", 1, 11)
def import_softmax_1(node: ir.Node, x: Tensor, *, axis: int = 1) -> Tensor:
    """Import Softmax as it was before opset 13."""
    return flat_softmax(x, axis)


@leaf
def flat_softmax(x: Tensor, axis: int) -> Tensor:
    """Softmax over the axes from ``axis`` on."""
    return torch.softmax(x.flatten(axis), -1).reshape(x.shape)


@register("LogSoftmax", 1, 11)
def import_log_softmax_1(node: ir.Node, x: Tensor, *, axis: int = 1) -> Tensor:
    """Import LogSoftmax as it was before opset 13."""
    return flat_log_softmax(x, axis)


@leaf
def flat_log_softmax(x: Tensor, axis: int) -> Tensor:
    """The logarithm of Softmax over the axes from ``axis`` on."""
    return torch.log_softmax(x.flatten(axis), -1).reshape(x.shape)


@register("Hardmax", 1, 11)
def import_hardmax_1(node: ir.Node, x: Tensor, *, axis: int = 1) -> Tensor:
    """Import Hardmax as it was before opset 13."""
    return flat_hardmax(x, axis)


@leaf
def flat_hardmax(x: Tensor, axis: int) -> Tensor:
    """``hardmax`` over the axes from ``axis`` on."""
    return hardmax(x.flatten(axis), -1).reshape(x.shape)
