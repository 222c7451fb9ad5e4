"""Causal convolution that carries its state from call to call."""

from __future__ import annotations

__all__ = ["causal_conv", "import_causal_conv_with_state"]

import onnx_ir as ir
import torch
from torch import Tensor
from torch.nn import functional as F

from .attributes import one_of
from .registry import leaf, parts, register


@register("CausalConvWithState", 27, learned=("weight", "bias"))
def import_causal_conv_with_state(
    node: ir.Node,
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    past: Tensor | None = None,
    *,
    activation: str = "none",
) -> tuple[Tensor, ...]:
    """Import CausalConvWithState.

    Raises:
        UnsupportedOpError: The activation is none of the schema's.
    """
    silu = one_of(node, "activation", activation, ("none", "silu", "swish")) != "none"
    return parts(causal_conv(x, weight, bias, past, silu), node)


@leaf
def causal_conv(
    x: Tensor, weight: Tensor, bias: Tensor | None, past: Tensor | None, silu: bool
) -> tuple[Tensor, Tensor]:
    """Each channel with a kernel of its own, over what is now and what was before; and the next state.

    Shape:
        x: ``(batch, channels, length)``; so the result.
        weight: ``(channels, 1, size)``.
        past: ``(batch, channels, size - 1)``, what was before ``x``; so the next state.
    """
    before = weight.shape[2] - 1
    seen = F.pad(x, (before, 0)) if past is None else torch.cat((past, x), 2)
    y = F.conv1d(seen, weight, bias, groups=x.shape[1])
    return F.silu(y) if silu else y, seen[:, :, seen.shape[2] - before :]
