"""Sums, and bounds."""

from __future__ import annotations

__all__ = ["FORMS"]

from collections.abc import Callable
from typing import Any

from torch import Tensor

from mpqtool.passes import arithmetic

from .values import Codes, Pending, code_of


def _relu(op: Callable[..., Tensor], x: Any) -> Any:
    return _clip(op, x, min=0.0)


def _clip(op: Callable[..., Tensor], x: Any, min: Any = None, max: Any = None) -> Any:  # torch's names
    if isinstance(min, Tensor) or isinstance(max, Tensor):
        return NotImplemented  # computed bounds are no fact about the graph
    if isinstance(x, Pending):
        return x.clipped(min, max)
    low, high = (
        None if bound is None else bound - x.zero_point
        for bound in (code_of(limit, x.scale, x.zero_point, x.high) for limit in (min, max))
    )
    return x.with_centered(x.centered.clamp(low, high))


def _add(op: Callable[..., Tensor], a: Any, b: Any) -> Any:
    """``(a - z_a) * r_a + (b - z_b) * r_b``, the zero point of y added before rounding.

    Of a constant ``c`` in the place of one: ``(a - z_a) * (s_a / s_y) + c / s_y``.
    """
    if isinstance(a, Codes) and isinstance(b, Codes):
        return Pending(
            rescale=lambda scale: _sum(a, b, scale), real=lambda: a.real() + b.real(), late_zero=True
        )
    x, term = (a, b) if isinstance(a, Codes) else (b, a)
    if not isinstance(x, Codes) or not isinstance(term, Tensor):
        return NotImplemented
    return Pending(
        rescale=lambda scale: x.centered * (x.scale / scale) + term / scale,
        real=lambda: x.real() + term,
    )


def _sum(a: Codes, b: Codes, scale: Tensor) -> Tensor:
    ratios = arithmetic.add_ratios(float(a.scale), float(b.scale), float(scale))
    return a.centered * float(ratios[0]) + b.centered * float(ratios[1])


FORMS: dict[str, Callable[..., Any]] = {"Relu": _relu, "Clip": _clip, "Add": _add}
