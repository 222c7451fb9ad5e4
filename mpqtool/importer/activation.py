"""Activation functions."""

from __future__ import annotations

__all__ = [
    "hard_sigmoid",
    "import_clip",
    "import_elu",
    "import_gelu",
    "import_hard_sigmoid",
    "import_hard_swish",
    "import_leaky_relu",
    "import_log_softmax",
    "import_prelu",
    "import_relu",
    "import_sigmoid",
    "import_softmax",
    "import_softplus",
    "import_tanh",
    "prelu",
]

import onnx_ir as ir
import torch
from torch import Tensor
from torch.nn import functional as F

from .registry import leaf, register


@register("Relu", 6, 13, 14)
def import_relu(node: ir.Node, x: Tensor) -> Tensor:
    """Import Relu."""
    return torch.relu(x)


@register("LeakyRelu", 6, 16)
def import_leaky_relu(node: ir.Node, x: Tensor, *, alpha: float = 0.01) -> Tensor:
    """Import LeakyRelu."""
    return F.leaky_relu(x, alpha)


@register("PRelu", 7, 9, 16, learned=("slope",))
def import_prelu(node: ir.Node, x: Tensor, slope: Tensor) -> Tensor:
    """Import PRelu; ``slope`` is broadcast to ``x``."""
    return prelu(x, slope)


@leaf
def prelu(x: Tensor, slope: Tensor) -> Tensor:
    """``x`` where it is positive, ``slope * x`` elsewhere."""
    return torch.where(x < 0, slope * x, x)


@register("Sigmoid", 6, 13)
def import_sigmoid(node: ir.Node, x: Tensor) -> Tensor:
    """Import Sigmoid."""
    return torch.sigmoid(x)


@register("HardSigmoid", 6, 22)
def import_hard_sigmoid(node: ir.Node, x: Tensor, *, alpha: float = 0.2, beta: float = 0.5) -> Tensor:
    """Import HardSigmoid."""
    return hard_sigmoid(x, alpha, beta)


@leaf
def hard_sigmoid(x: Tensor, alpha: float, beta: float) -> Tensor:
    """``clip(alpha * x + beta, 0, 1)``."""
    return torch.clamp(alpha * x + beta, 0, 1)


@register("HardSwish", 14, 22)
def import_hard_swish(node: ir.Node, x: Tensor) -> Tensor:
    """Import HardSwish."""
    return F.hardswish(x)


@register("Tanh", 6, 13)
def import_tanh(node: ir.Node, x: Tensor) -> Tensor:
    """Import Tanh."""
    return torch.tanh(x)


@register("Elu", 6, 22)
def import_elu(node: ir.Node, x: Tensor, *, alpha: float = 1.0) -> Tensor:
    """Import Elu."""
    return F.elu(x, alpha)


@register("Gelu", 20)
def import_gelu(node: ir.Node, x: Tensor, *, approximate: str = "none") -> Tensor:
    """Import Gelu."""
    return F.gelu(x, approximate=approximate)


@register("Softplus", 1, 22)
def import_softplus(node: ir.Node, x: Tensor) -> Tensor:
    """Import Softplus."""
    return F.softplus(x)


@register("Clip", 11, 12, 13, known=("minimum", "maximum"))
def import_clip(
    node: ir.Node, x: Tensor, minimum: float | None = None, maximum: float | None = None
) -> Tensor:
    """Import Clip; a bound that is not given does not bound."""
    low, high = minimum, maximum
    if low is None and high is None:
        return x
    return torch.clamp(x, min=low, max=high)


@register("Softmax", 13)
def import_softmax(node: ir.Node, x: Tensor, *, axis: int = -1) -> Tensor:
    """Import Softmax."""
    return torch.softmax(x, axis)


@register("LogSoftmax", 13)
def import_log_softmax(node: ir.Node, x: Tensor, *, axis: int = -1) -> Tensor:
    """Import LogSoftmax."""
    return torch.log_softmax(x, axis)
