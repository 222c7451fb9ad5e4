"""Products of activations, and of an activation and a number."""

from __future__ import annotations

__all__ = ["FORMS"]

import dataclasses
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from mpqtool.passes import arithmetic

from .values import Codes, Pending


def _multiply(op: Callable[..., Tensor], a: Any, b: Any) -> Any:
    """``(a - z_a) * (b - z_b) * (s_a * s_b / s_y)``, the zero point of y added before rounding."""
    if isinstance(a, Codes) and isinstance(b, Codes):
        product, unit = a.centered * b.centered, a.scale * b.scale
        return Pending(
            rescale=lambda scale: product * (unit / scale),
            real=lambda: product * unit,
            late_zero=True,
        )
    return _scaled(a, b) if isinstance(a, Codes) else _scaled(b, a)


def _divide(op: Callable[..., Tensor], a: Any, b: Any) -> Any:
    return _scaled(a, 1 / b) if isinstance(b, Tensor) and b.numel() == 1 else NotImplemented


def _scaled(x: Any, number: Any) -> Any:
    """Codes times a positive number are the same codes in steps of another size."""
    if not isinstance(x, Codes) or not isinstance(number, Tensor) or number.numel() != 1:
        return NotImplemented
    if number.ndim > x.centered.ndim or not 0 < float(number) < float("inf"):
        return NotImplemented
    # The number becomes part of a scale, and scales are constants here: sums and tables take them as plain
    # numbers, so a gradient would reach it through some users of the codes and not through others.
    return dataclasses.replace(x, scale=x.scale * number.detach().reshape(()))


def _matmul(op: Callable[..., Tensor], a: Any, b: Any) -> Any:
    """An int32 accumulator in units of ``s_a * s_b``, as that of a convolution."""
    if not isinstance(a, Codes) or not isinstance(b, Codes):
        return NotImplemented
    largest = a.centered.shape[-1] * max(a.zero_point, a.high - a.zero_point)
    largest *= max(b.zero_point, b.high - b.zero_point)
    exact = torch.float32 if largest < arithmetic.EXACT_BELOW else torch.float64
    acc, unit = op(a.centered.to(exact), b.centered.to(exact)).float(), a.scale * b.scale
    return Pending(rescale=lambda scale: acc * (unit / scale), real=lambda: acc * unit)


FORMS: dict[str, Callable[..., Any]] = {"Mul": _multiply, "Div": _divide, "MatMul": _matmul}
