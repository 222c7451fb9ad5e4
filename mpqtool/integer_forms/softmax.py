"""Softmax: integers in place of exponentials."""

from __future__ import annotations

__all__ = ["FORMS"]

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from mpqtool.passes import functions

from .tables import substitute
from .values import Codes, Pending


def _softmax(op: Callable[..., Tensor], x: Any, axis: int = -1) -> Any:
    """``e / (sum(e) * s_y)``, ``e = exponentials[max(x) - x]``; the gradient is that of Softmax.

    An offset of the result is taken off in codes.
    """
    if not isinstance(x, Codes):
        return NotImplemented
    codes = x.centered.detach()
    distance = (codes.amax(axis, keepdim=True) - codes).long()
    e = torch.tensor(functions.softmax_exponentials(float(x.scale)), device=codes.device)[distance]
    total = e.double().sum(axis, keepdim=True).float()
    smooth = op(x.real(), axis)

    def pending(offset: float) -> Pending:
        less = torch.tensor(offset, device=codes.device)  # a number over a tensor would be rounded twice
        return Pending(
            rescale=lambda scale: substitute(e / (total * scale) - less / scale, (smooth - less) / scale),
            real=lambda: substitute(e / total, smooth) - less,
            shifted=pending,
        )

    return pending(0.0)


FORMS: dict[str, Callable[..., Any]] = {"Softmax": _softmax}
