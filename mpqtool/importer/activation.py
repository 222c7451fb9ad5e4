"""Activation functions of one number, and the gates made of them; see ``softmax`` for those over an axis."""

from __future__ import annotations

__all__ = [
    "clip",
    "hard_sigmoid",
    "import_celu",
    "import_clip",
    "import_clip_6",
    "import_elu",
    "import_gelu",
    "import_hard_sigmoid",
    "import_leaky_relu",
    "import_prelu",
    "import_selu",
    "import_shrink",
    "import_swi_glu",
    "import_swish",
    "import_thresholded_relu",
    "prelu",
    "selu",
    "shrink",
    "swi_glu",
    "swish",
]

from collections.abc import Callable
from typing import Any

import onnx_ir as ir
import torch
from torch import Tensor
from torch.nn import functional as F

from .attributes import one_of, single
from .registry import leaf, register
from .unsigned import as_float64, from_ordered, in_order

_LARGEST_FLOAT = torch.finfo(torch.float32).max

_WITHOUT_ATTRIBUTES: dict[str, tuple[Callable[[Tensor], Tensor], tuple[int, ...]]] = {
    "HardSwish": (F.hardswish, (14, 22)),
    "Mish": (F.mish, (18, 22)),
    "Relu": (torch.relu, (6, 13, 14)),
    "Sigmoid": (torch.sigmoid, (6, 13)),
    "Softplus": (F.softplus, (1, 22)),
    "Softsign": (F.softsign, (1, 22)),
    "Tanh": (torch.tanh, (6, 13)),
}


def _register(
    op_type: str, function: Callable[[Tensor], Tensor], versions: tuple[int, ...], domain: str = ""
) -> None:
    @register(op_type, *versions, domain=domain)
    def import_activation(node: ir.Node, x: Tensor) -> Tensor:
        return function(x)


for _op_type, (_function, _versions) in _WITHOUT_ATTRIBUTES.items():
    _register(_op_type, _function, _versions)
_register("Silu", F.silu, (1,), domain="mpqtool")  # x * sigmoid(x), which ONNX has as Swish from opset 24 on


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
    if not x.dtype.is_signed:
        return x
    channelwise = x.ndim > 1 and slope.ndim >= x.ndim - 1 and slope.shape[1 - x.ndim] == x.shape[1]
    if x.is_floating_point() and slope.numel() == (x.shape[1] if channelwise else 1):
        return F.prelu(x, slope.flatten())  # one kernel in place of three
    return torch.where(x < 0, slope * x, x)


@register("ThresholdedRelu", 10, 22)
def import_thresholded_relu(node: ir.Node, x: Tensor, *, alpha: float = 1.0) -> Tensor:
    """Import ThresholdedRelu."""
    return F.threshold(x, alpha, 0.0)


@register("Elu", 6, 22)
def import_elu(node: ir.Node, x: Tensor, *, alpha: float = 1.0) -> Tensor:
    """Import Elu."""
    return F.elu(x, alpha)


@register("Celu", 12, 28)
def import_celu(node: ir.Node, x: Tensor, *, alpha: float = 1.0) -> Tensor:
    """Import Celu."""
    return F.celu(x, alpha)


@register("Selu", 6, 22)
def import_selu(
    node: ir.Node,
    x: Tensor,
    *,
    alpha: float = 1.67326319217681884765625,
    gamma: float = 1.05070102214813232421875,
) -> Tensor:
    """Import Selu."""
    return selu(x, alpha, gamma)


@leaf
def selu(x: Tensor, alpha: float, gamma: float) -> Tensor:
    """``gamma * x`` where it is positive, ``gamma * alpha * (exp(x) - 1)`` elsewhere."""
    return gamma * F.elu(x, alpha)


@register("Gelu", 20)
def import_gelu(node: ir.Node, x: Tensor, *, approximate: str = "none") -> Tensor:
    """Import Gelu."""
    return F.gelu(x, approximate=one_of(node, "approximate", approximate, ("none", "tanh")))


@register("HardSigmoid", 6, 22)
def import_hard_sigmoid(node: ir.Node, x: Tensor, *, alpha: float = 0.2, beta: float = 0.5) -> Tensor:
    """Import HardSigmoid."""
    return hard_sigmoid(x, alpha, beta)


@leaf
def hard_sigmoid(x: Tensor, alpha: float, beta: float) -> Tensor:
    """``clip(alpha * x + beta, 0, 1)``."""
    return torch.clamp(alpha * x + beta, 0, 1)


@register("Shrink", 9)
def import_shrink(node: ir.Node, x: Tensor, *, bias: float = 0.0, lambd: float = 0.5) -> Tensor:
    """Import Shrink."""
    return shrink(x, bias, lambd)


@leaf
def shrink(x: Tensor, bias: float, threshold: float) -> Tensor:
    """``x`` moved towards 0 by ``bias``, and 0 within ``threshold`` of 0."""
    real = as_float64(x)
    moved = torch.where(real < 0, real + bias, real - bias)
    return torch.where(real.abs() > threshold, moved, 0).to(x.dtype)


@register("Swish", 24)
def import_swish(node: ir.Node, x: Tensor, *, alpha: float = 1.0) -> Tensor:
    """Import Swish."""
    return F.silu(x) if alpha == 1 else swish(x, alpha)


@leaf
def swish(x: Tensor, alpha: float) -> Tensor:
    """``x * sigmoid(alpha * x)``."""
    return x * torch.sigmoid(alpha * x)


@register("SwiGLU", 28)
def import_swi_glu(node: ir.Node, a: Tensor, b: Tensor, *, alpha: float = 1.0) -> Tensor:
    """Import SwiGLU."""
    return swi_glu(a, b, alpha)


@leaf
def swi_glu(gate: Tensor, x: Tensor, alpha: float) -> Tensor:
    """``swish(gate) * x``."""
    return (F.silu(gate) if alpha == 1 else swish(gate, alpha)) * x


@register("Clip", 6)
def import_clip_6(
    node: ir.Node, x: Tensor, *, min: float = -_LARGEST_FLOAT, max: float = _LARGEST_FLOAT
) -> Tensor:
    """Import Clip as it was before opset 11."""
    low = None if min <= -_LARGEST_FLOAT else min  # a number that float16 has not
    return import_clip(node, x, low, None if max >= _LARGEST_FLOAT else max)


@register("Clip", 11, 12, 13, known=("low", "high"))
def import_clip(node: ir.Node, x: Tensor, low: Any = None, high: Any = None) -> Tensor:
    """Import Clip; a bound that is not given does not bound."""
    low, high = single(low), single(high)
    return x if low is None and high is None else clip(x, low, high)


@leaf
def clip(x: Tensor, low: Tensor | float | None, high: Tensor | float | None) -> Tensor:
    """``min(max(x, low), high)``."""
    ordered = in_order(x)
    if ordered is x and not isinstance(low, Tensor) and not isinstance(high, Tensor):
        return torch.clamp(x, low, high)
    bounds = (
        None if bound is None else in_order(torch.as_tensor(bound, dtype=x.dtype, device=x.device))
        for bound in (low, high)
    )
    return from_ordered(torch.clamp(ordered, *bounds), x.dtype)
