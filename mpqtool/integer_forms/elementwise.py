"""Sums, and bounds."""

from __future__ import annotations

__all__ = ["FORMS"]

from collections.abc import Callable
from typing import Any

from torch import Tensor

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
    """``(a - z_a) * (s_a / s_y) + (b - z_b) * (s_b / s_y)``, the zero point of y added before rounding."""
    if not isinstance(a, Codes) or not isinstance(b, Codes):
        return NotImplemented
    return Pending(
        rescale=lambda scale: a.centered * (a.scale / scale) + b.centered * (b.scale / scale),
        real=lambda: a.real() + b.real(),
        late_zero=True,
    )


FORMS: dict[str, Callable[..., Any]] = {"Relu": _relu, "Clip": _clip, "Add": _add}
