"""Activations with a learned scale and a learned real offset: LSQ+."""

from __future__ import annotations

__all__ = ["OffsetQuantizer"]

from typing import Any

import torch
from torch import Tensor, nn

from mpqtool.passes.plan import ActivationQuant

from .scales import dot, gradient_scale, restrain


class OffsetQuantizer(nn.Module):
    """Fake-quantize an activation with a real offset, ``x_hat = s * x_bar + beta``.

    ``x_bar = rint(clamp((x - beta) / s, n, p))``: n = 0 and p = ``2**bits - 1`` (configuration 4), or the
    signed integers of as many bits (configuration 3). The grids are the same; only the gradient of ``s``
    differs.

    What comes out is a pair: ``y = x_hat - r``, and ``r``, the quantized real 0. Layers take ``y``, which
    they may pad with zeros, and add ``r * sum(weight)`` to their biases (``quantizers.offset``): that is to
    pad ``x`` with 0 before it is quantized, and it is what the integer file does. Gradients are
    those of the padded and quantized value.

    Source: Bhalgat et al., LSQ+, equations 2 to 4, table 1.

    Args:
        name: The value this quantizes.
        bits: Width of a code, 1 to 8.
        low: n, 0 or ``-2**(bits - 1)``.
        learned: Whether beta is learned; else it stays what ``set_numbers`` made it.

    Shape:
        Input: any shape ``(batch, ...)``, float32. Output: the same shape, and ``()``. ``learned_scale`` and
        ``beta``: ``()``.
    """

    bits: Tensor
    former_scale: Tensor

    def __init__(self, name: str, bits: int, *, low: int, learned: bool = True) -> None:
        super().__init__()
        self.name, self.low = name, low
        self.high = low + 2**bits - 1
        self.elements = 0  # of one sample; known once a batch went through
        self.learned_scale = nn.Parameter(torch.tensor(torch.nan))  # set by the initialization
        self.beta = nn.Parameter(torch.tensor(0.0), requires_grad=learned)
        self.register_buffer("bits", torch.tensor(bits))
        self.register_buffer("former_scale", torch.tensor(torch.nan))

    @property
    def scale(self) -> Tensor:
        """Real units per code, ``()``."""
        return self.learned_scale

    @property
    def is_set(self) -> bool:
        """Whether there is a scale."""
        return not bool(self.learned_scale.isnan())

    @torch.no_grad()
    def set_numbers(self, *, scale: float, beta: float) -> None:
        """Set the scale and the offset that learning starts from."""
        self.learned_scale.fill_(scale)
        self.former_scale.fill_(scale)
        self.beta.fill_(beta)

    def restrain_scale(self) -> None:
        """Limit what a step of the optimizer did to the scale."""
        restrain(self.learned_scale, self.former_scale)

    def pass_through(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """What comes out while nothing is quantized: the value, and no offset."""
        self.elements = x[0].numel()
        return x, x.new_zeros(())

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        self.elements = x[0].numel()
        damping = gradient_scale(self.elements, self.high)
        y, zero = _QuantizeWithOffset.apply(  # type: ignore[no-untyped-call]  # torch's apply has no types
            x.float(), self.learned_scale, self.beta, self.low, self.high, damping
        )
        return y, zero

    def to_plan(self) -> ActivationQuant:
        """The plan entry of the present scale and offset."""
        scale = float(self.learned_scale.detach())
        entry = ActivationQuant(name=self.name, bits=int(self.bits))
        return entry.with_beta(scale, float(self.beta.detach()) + self.low * scale)


class _QuantizeWithOffset(torch.autograd.Function):
    """``x_hat - r`` and ``r``; ``v = (x - beta) / s``, and ``v0 = -beta / s`` is the v of real 0.

    ``d x_hat / d x = 1`` where ``n < v < p``, else 0.
    ``d x_hat / d s = rint(v) - v`` where ``n < v < p``, ``n`` where ``v <= n``, ``p`` where ``v >= p``.
    ``d x_hat / d beta = 0`` where ``n < v < p``, else 1. The same for r, with v0.
    Source: Bhalgat et al., LSQ+, equations 3 and 4, times the ``damping`` of LSQ, section 2.2.
    """

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, scale: Tensor, beta: Tensor, low: int, high: int, damping: float
    ) -> tuple[Tensor, Tensor]:
        v = (x - beta) / scale
        v0 = -beta / scale
        code0 = torch.round(v0).clamp_(low, high)
        y = torch.round(v).clamp_(low, high).sub_(code0).mul_(scale)
        ctx.save_for_backward(v, y, scale, v0, code0)
        ctx.constants = low, high, damping
        return y, code0 * scale + beta

    @staticmethod
    def backward(
        ctx: Any, grad: Tensor, grad_zero: Tensor
    ) -> tuple[Tensor | None, Tensor, Tensor, None, None, None]:
        v, y, scale, v0, code0 = ctx.saved_tensors
        low, high, damping = ctx.constants
        # One fused pass: grad where n < v < p, else 0.
        grad_x = torch.ops.aten.hardtanh_backward(grad, v, low, high)
        inside0 = ((v0 > low) & (v0 < high)).to(v0)
        total = grad.sum()
        grad_r = grad_zero - total  # r is taken off every element of y
        # sum(grad * x_bar) less what is inside: y / s + code0 is x_bar.
        slope = dot(grad, y) / scale + total * code0 - dot(grad_x, v)
        slope = slope + grad_r * (code0 - inside0 * v0)
        shift = total - grad_x.sum() + grad_r * (1 - inside0)
        return grad_x, slope * damping, shift * damping, None, None, None
