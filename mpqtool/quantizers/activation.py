"""Activations on unsigned integer codes with a learned scale."""

from __future__ import annotations

__all__ = ["ActivationQuantizer"]

import math
from typing import Any

import torch
from torch import Tensor, nn

from mpqtool.passes.plan import ActivationQuant


class ActivationQuantizer(nn.Module):
    """Fake-quantize an activation.

    ``x_hat = scale * (clamp(rint(x / scale) + zero_point, 0, 2**bits - 1) - zero_point)``

    The scale is trained with LSQ's gradient (``_FakeQuantize``), the zero point is fixed.

    ``scale = base * 2**exponent``. Quantizers of one tie share ``base`` and keep their exponents, so that
    their scales stay powers of two of each other and their sums stay exact in integers.

    Args:
        name: The value this quantizes.
        bits: Width of a code, 1 to 8.
        zero_point: The code of real 0, or None until calibrated.
        tie: Name of the tie, or None.
        nonnegative: Whether the value cannot be negative, so that the zero point is always 0.

    Shape:
        Input and output: any shape ``(batch, ...)``, same for both, float32. ``base``: ``()``.
    """

    bits: Tensor
    zero_point: Tensor
    exponent: Tensor

    def __init__(
        self, name: str, bits: int, *, zero_point: int | None, tie: str | None, nonnegative: bool
    ) -> None:
        super().__init__()
        self.name, self.tie, self.nonnegative = name, tie, nonnegative
        self.elements = 0  # of one sample; known once a batch went through
        self.base = nn.Parameter(torch.tensor(torch.nan))  # set by calibration, or from the plan
        self.register_buffer("bits", torch.tensor(bits))
        self.register_buffer("zero_point", torch.tensor(-1 if zero_point is None else zero_point))
        self.register_buffer("exponent", torch.tensor(0))

    @property
    def scale(self) -> Tensor:
        """Real units per code, ``()``."""
        return self.base * torch.exp2(self.exponent)

    @property
    def high(self) -> int:
        """The largest code."""
        return int(2 ** int(self.bits) - 1)

    @torch.no_grad()
    def set_numbers(self, *, base: float, exponent: int, zero_point: int) -> None:
        """Set the scale to ``base * 2**exponent``; ``base`` reaches every quantizer of the tie."""
        self.base.fill_(base)
        self.exponent.fill_(exponent)
        self.zero_point.fill_(zero_point)

    def forward(self, x: Tensor) -> Tensor:
        zero_point, high = int(self.zero_point), self.high
        # LSQ's gradient scale 1 / sqrt(N * Q_P), N the features of one sample.
        self.elements = x[0].numel()
        damping = 1 / math.sqrt(max(self.elements, 1) * high)
        y: Tensor = _FakeQuantize.apply(  # type: ignore[no-untyped-call]  # torch's apply has no types
            x, self.scale, zero_point, high, damping
        )
        return y

    def to_plan(self) -> ActivationQuant:
        """The plan entry of the present width, scale and zero point."""
        return ActivationQuant(
            name=self.name,
            bits=int(self.bits),
            scale=float(self.scale.detach()),
            zero_point=int(self.zero_point),
            tie=self.tie,
        )


class _FakeQuantize(torch.autograd.Function):
    """LSQ's quantizer with a zero point; ``v = x / s``, ``n = -z``, ``p = high - z``.

    ``d y / d x = 1`` where ``n < v < p``, else 0.
    ``d y / d s = rint(v) - v`` where ``n < v < p``, ``n`` where ``v <= n``, ``p`` where ``v >= p``.
    Source: Bhalgat et al., LSQ+, equations 3 and 4, times the ``damping`` of LSQ, section 2.2.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, scale: Tensor, zero_point: int, high: int, damping: float) -> Tensor:
        v = x / scale
        y = torch.round(v).clamp_(-zero_point, high - zero_point).mul_(scale)
        ctx.save_for_backward(v, y, scale)
        ctx.constants = zero_point, high, damping
        return y

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor, None, None, None]:
        v, y, scale = ctx.saved_tensors
        zero_point, high, damping = ctx.constants
        # One fused pass: grad where n < v < p, else 0.
        grad_x = torch.ops.aten.hardtanh_backward(grad, v, -zero_point, high - zero_point)
        # sum(grad * d y / d s): y / s is rint(v) inside and n or p outside, where no v is subtracted.
        slope = _dot(grad, y) / scale - _dot(grad_x, v)
        return grad_x, slope * damping, None, None, None


def _dot(a: Tensor, b: Tensor) -> Tensor:
    return torch.dot(a.flatten(), b.flatten())
