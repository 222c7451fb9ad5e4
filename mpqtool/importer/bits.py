"""Numbers that torch holds and cannot move: its kernels leave out some element types."""

from __future__ import annotations

__all__ = ["UNSIGNED", "as_bits", "of_bits"]

import torch
from torch import Tensor

UNSIGNED = {torch.uint16: torch.int16, torch.uint32: torch.int32, torch.uint64: torch.int64}
"""The unsigned integers for which torch has few kernels, and the signed ones of the same width."""

_SAME_WIDTH = {
    **UNSIGNED,
    torch.float8_e4m3fn: torch.uint8,
    torch.float8_e4m3fnuz: torch.uint8,
    torch.float8_e5m2: torch.uint8,
    torch.float8_e5m2fnuz: torch.uint8,
    torch.float8_e8m0fnu: torch.uint8,
}


def as_bits(x: Tensor) -> Tensor:
    """The same bits as integers that torch can move; most types are left as they are."""
    dtype = _SAME_WIDTH.get(x.dtype)
    return x if dtype is None else x.view(dtype)


def of_bits(bits: Tensor, dtype: torch.dtype) -> Tensor:
    """The way back of ``as_bits``. No view where there is nothing to do: one of a type stops gradients."""
    return bits if bits.dtype == dtype else bits.view(dtype)
