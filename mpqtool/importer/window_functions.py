"""The windows that a signal is multiplied with before a Fourier transform."""

from __future__ import annotations

__all__ = ["cosine_window"]

import math
from typing import Any

import onnx_ir as ir
import torch
from torch import Tensor

from .cast import held
from .registry import integers, leaf, register

_COEFFICIENTS = {
    "HannWindow": (0.5, 0.5, 0.0),
    "HammingWindow": (25 / 46, 21 / 46, 0.0),  # the standard's; torch has 0.54 and 0.46
    "BlackmanWindow": (0.42, 0.5, 0.08),
}


def _register_window(op_type: str, coefficients: tuple[float, float, float]) -> None:
    @register(op_type, 17, known=("size",))
    def import_window(node: ir.Node, size: Any, *, output_datatype: int = 1, periodic: int = 1) -> Tensor:
        dtype = held(node, ir.DataType(output_datatype), "output")
        return cosine_window(size, coefficients, bool(periodic), dtype)


for _op_type, _of_op_type in _COEFFICIENTS.items():
    _register_window(_op_type, _of_op_type)


@leaf
def cosine_window(
    size: Tensor | tuple[int, ...] | int,
    coefficients: tuple[float, float, float],
    periodic: bool,
    dtype: torch.dtype,
) -> Tensor:
    """``a0 - a1 * cos(phase) + a2 * cos(2 * phase)``, ``phase = 2 * pi * i / period``.

    Args:
        size: How many elements.
        coefficients: a0, a1, a2.
        periodic: Whether the period is ``size``, and not one less, for a symmetric window.
        dtype: Of the result.
    """
    (count,) = integers(size)
    steps = torch.arange(count, device=size.device if isinstance(size, Tensor) else None)
    phase = steps * (2 * math.pi / max(count if periodic else count - 1, 1))
    a0, a1, a2 = coefficients
    return (a0 - a1 * phase.cos() + a2 * (2 * phase).cos()).to(dtype)
