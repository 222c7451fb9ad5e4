"""Functions of one number: tables of codes."""

from __future__ import annotations

__all__ = ["FORMS", "substitute"]

import functools
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from mpqtool.passes import functions

from .values import Codes, Pending


def substitute(exact: Tensor, smooth: Tensor) -> Tensor:
    """``exact``, with the gradient of ``smooth``."""
    value: Tensor = _Substitute.apply(exact, smooth)  # type: ignore[no-untyped-call]  # torch's apply has no types
    return value


class _Substitute(torch.autograd.Function):
    @staticmethod
    def forward(ctx: object, exact: Tensor, smooth: Tensor) -> Tensor:
        return exact

    @staticmethod
    def backward(ctx: object, grad: Tensor) -> tuple[None, Tensor]:
        return None, grad


def _table(op_type: str, op: Callable[..., Tensor], x: Any, *args: Any, **kwargs: Any) -> Any:
    """The real numbers that the table of codes is quantized from; the gradient is that of the function."""
    if not isinstance(x, Codes):
        return NotImplemented
    values = [*args, *(value for name, value in kwargs.items() if name != "inplace")]
    reals = functions.outputs(op_type, float(x.scale), x.zero_point, *values)
    codes = (x.centered.detach() + x.zero_point).long()
    y = substitute(torch.tensor(reals, device=codes.device)[codes], op(x.real(), *args, **kwargs))
    return Pending(rescale=lambda scale: y / scale, real=lambda: y)


def _hard_swish(op: Callable[..., Tensor], x: Any, *args: Any, **kwargs: Any) -> Any:
    """A product of codes, where real 3 is a whole number of them; else a table."""
    reach = functions.hard_swish_reach(float(x.scale), x.zero_point) if isinstance(x, Codes) else None
    if reach is None:
        return _table("HardSwish", op, x, *args, **kwargs)
    product = x.centered * (x.centered.clamp(-reach, reach) + reach)
    gate_scale = torch.tensor(functions.hard_swish_gate_scale(float(x.scale)), device=x.scale.device)
    return Pending(
        rescale=lambda scale: product * (x.scale * gate_scale / scale),
        real=lambda: product * (x.scale * gate_scale),
        late_zero=True,
        shifted=lambda offset: _less(_table("HardSwish", op, x, *args, **kwargs), offset),
    )


def _less(table: Pending, offset: float) -> Pending:
    return Pending(rescale=lambda scale: (table.real() - offset) / scale, real=lambda: table.real() - offset)


FORMS: dict[str, Callable[..., Any]] = {
    **{op_type: functools.partial(_table, op_type) for op_type in functions.FUNCTIONS},
    "HardSwish": _hard_swish,
}
