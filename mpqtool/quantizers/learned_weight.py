"""Weights with a learned scale: LSQ."""

from __future__ import annotations

__all__ = ["LsqWeightQuantizer"]

import math
from typing import Any

import torch
from torch import Tensor, nn

from mpqtool.passes.arithmetic import code_range
from mpqtool.passes.plan import Grid, WeightQuant

from .scales import gradient_scale, restrain

_ODD = math.sqrt(2) / 4
"""From ``1 / sqrt(N * p)`` in codes to the same in steps of two codes, of half the scale twice."""


class LsqWeightQuantizer(nn.Module):
    """Fake-quantize a weight, ``w_hat = s * rint(clamp(w / s, n, p))``, with a scale per kernel or per layer.

    n and p are the ends of the grid, ``-2**(bits - 1)`` and ``2**(bits - 1) - 1`` on the full one, as in the
    papers. On the odd grid, which has no 0, the code is the nearest odd integer.

    Source: Bhalgat et al., LSQ+, equations 1 and 3.

    Args:
        name: The initializer this quantizes.
        bits: Width of every code, 1 to 8; 1 on the odd grid alone.
        grid: Which integers the codes are.
        kernels: Number of kernels.
        elements: Weights of one kernel.
        per_kernel: Whether each kernel has a scale of its own.

    Shape:
        Input and output ``(kernels, ...)``, float32. ``scale``: ``(kernels,)``, or ``(1,)`` for the layer.
    """

    bits: Tensor
    former_scale: Tensor

    def __init__(
        self, name: str, bits: int, grid: Grid, *, kernels: int, elements: int, per_kernel: bool
    ) -> None:
        super().__init__()
        self.name, self.grid, self.elements = name, grid, elements
        self.low, self.high = code_range(bits, grid)
        self.odd = grid is Grid.ODD and bits < 8
        scales = kernels if per_kernel else 1
        # On the odd grid a step is two codes: with this, it moves as far as on the full one.
        self.damping = gradient_scale(kernels * elements // scales, self.high) * (_ODD if self.odd else 1)
        self.scale = nn.Parameter(torch.full((scales,), torch.nan))  # set by the initialization
        self.register_buffer("bits", torch.full((kernels,), bits))
        self.register_buffer("former_scale", torch.full((scales,), torch.nan))

    @torch.no_grad()
    def set_scale(self, scale: Tensor) -> None:
        """Set the scale that learning starts from, ``(kernels,)`` or ``(1,)``."""
        self.scale.copy_(scale)
        self.former_scale.copy_(scale)

    def restrain_scale(self) -> None:
        """Limit what a step of the optimizer did to the scales."""
        restrain(self.scale, self.former_scale)

    def forward(self, weight: Tensor) -> Tensor:
        scale = self.scale.view(-1, *[1] * (weight.ndim - 1))
        quantized: Tensor = _QuantizeWeight.apply(  # type: ignore[no-untyped-call]  # torch's apply has no types
            weight, scale, self.low, self.high, self.odd, self.damping
        )
        return quantized

    def to_plan(self) -> WeightQuant:
        """The plan entry of the present scales."""
        scales = self.scale.detach().expand(len(self.bits))
        return WeightQuant(
            name=self.name,
            bits=tuple(self.bits.tolist()),
            grid=self.grid,
            scale=tuple(scales.double().tolist()),
        )


class _QuantizeWeight(torch.autograd.Function):
    """``d w_hat / d w = 1`` where ``n < v < p``, else 0, with ``v = w / s``.

    ``d w_hat / d s = code - v`` where ``n < v < p``, ``n`` where ``v <= n``, ``p`` where ``v >= p``.
    Source: Bhalgat et al., LSQ+, equation 3, times the ``damping`` of LSQ, section 2.2.
    """

    @staticmethod
    def forward(
        ctx: Any, weight: Tensor, scale: Tensor, low: int, high: int, odd: bool, damping: float
    ) -> Tensor:
        v = weight / scale
        nearest = torch.floor(v * 0.5).mul_(2).add_(1) if odd else torch.round(v)
        codes = nearest.clamp_(low, high)
        ctx.save_for_backward(v, codes)
        ctx.constants = low, high, damping, scale.shape
        return codes * scale

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor, None, None, None, None]:
        v, codes = ctx.saved_tensors
        low, high, damping, shape = ctx.constants
        grad_weight = torch.ops.aten.hardtanh_backward(grad, v, low, high)
        slope = (grad * codes - grad_weight * v).sum_to_size(shape)
        return grad_weight, slope * damping, None, None, None, None
