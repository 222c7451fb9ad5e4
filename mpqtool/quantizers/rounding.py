"""Rounding with a straight-through gradient."""

from __future__ import annotations

__all__ = ["round_ste"]

import torch
from torch import Tensor


def round_ste(x: Tensor) -> Tensor:
    """``rint(x)``, half to even; the gradient passes as if it were ``x``."""
    rounded: Tensor = _RoundSte.apply(x)  # type: ignore[no-untyped-call]  # torch's apply has no types
    return rounded


class _RoundSte(torch.autograd.Function):
    # A Function and not ``x + (x.round() - x).detach()``: that sum is not always the integer.
    @staticmethod
    def forward(ctx: object, x: Tensor) -> Tensor:
        return torch.round(x)

    @staticmethod
    def backward(ctx: object, grad: Tensor) -> Tensor:
        return grad
