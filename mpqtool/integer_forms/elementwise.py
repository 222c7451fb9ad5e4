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
        return _sum(a, b, 1)
    return _shifted(a, b, 1) if isinstance(a, Codes) else _shifted(b, a, 1)


def _subtract(op: Callable[..., Tensor], a: Any, b: Any) -> Any:
    """As ``_add``, with ``-r_b``; of a constant with ``-c``, or with ``-s_b`` where it comes first."""
    if isinstance(a, Codes) and isinstance(b, Codes):
        return _sum(a, b, -1)
    if isinstance(a, Codes):
        return _shifted(a, -b, 1) if isinstance(b, Tensor) else NotImplemented
    return _shifted(b, a, -1)


def _sum(a: Codes, b: Codes, sign: int) -> Pending:
    def over(scale: Tensor) -> Tensor:
        ratios = arithmetic.add_ratios(float(a.scale), float(b.scale), float(scale))
        return a.centered * float(ratios[0]) + b.centered * (sign * float(ratios[1]))

    return Pending(rescale=over, real=lambda: a.real() + sign * b.real(), late_zero=True)


def _shifted(x: Any, term: Any, sign: int) -> Any:
    """``sign * x + term``; an offset is taken off the constant."""
    if not isinstance(x, Codes) or not isinstance(term, Tensor):
        return NotImplemented
    return Pending(
        rescale=lambda scale: x.centered * (sign * x.scale / scale) + term / scale,
        real=lambda: sign * x.real() + term,
        shifted=lambda offset: _shifted(x, term - offset, sign),
    )


FORMS: dict[str, Callable[..., Any]] = {"Relu": _relu, "Clip": _clip, "Add": _add, "Sub": _subtract}
