"""Averages: sums of codes times a factor."""

from __future__ import annotations

__all__ = ["FORMS"]

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from mpqtool.passes.windows import divisors
from mpqtool.quantizers import round_ste

from .values import Codes, Pending


def _global_average(op: Callable[..., Tensor], x: Any) -> Any:
    """A sum of codes times ``s_x / (s_y * count)``."""
    if not isinstance(x, Codes):
        return NotImplemented
    count = x.centered[0, 0].numel()
    # float64: the sum of a large map can pass 2**24.
    total = x.centered.double().sum(tuple(range(2, x.centered.ndim)), keepdim=True).float()
    return Pending(
        rescale=lambda scale: total * (x.scale / (scale * count)),
        real=lambda: total * (x.scale / count),
    )


def _average(
    op: Callable[..., Tensor],
    x: Any,
    kernel: Sequence[int],
    stride: Sequence[int],
    pads: Sequence[int],
    count_padding: bool,
    dilation: Sequence[int],
    ceil_mode: bool,
    auto_pad: str,
) -> Any:
    """A sum of codes times ``(s_x * float32(1 / count)) / s_y``; the count may differ from place to place."""
    args = (stride, pads, count_padding, dilation, ceil_mode, auto_pad)
    if not isinstance(x, Codes) or auto_pad not in ("NOTSET", "VALID"):
        return NotImplemented
    count, _ = divisors(
        x.centered.shape[2:], kernel, stride, pads, dilation, ceil_mode=ceil_mode, count_padding=count_padding
    )
    counts = torch.from_numpy(count).to(x.centered.device)
    # The mean of integers in float64 times their count is within 1e-9 of the sum: round to it.
    total = round_ste(op(x.centered.double(), kernel, *args) * counts).float()
    unit = x.scale * (1 / counts.double()).float()
    return Pending(rescale=lambda scale: total * (unit / scale), real=lambda: total * unit)


FORMS: dict[str, Callable[..., Any]] = {"GlobalAveragePool": _global_average, "AveragePool": _average}
