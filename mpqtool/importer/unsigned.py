"""Unsigned integers of 16 bits and more, for which torch has few kernels, as int64."""

from __future__ import annotations

__all__ = ["as_int64", "from_ordered", "in_order"]

import torch
from torch import Tensor

_UNSIGNED = (torch.uint16, torch.uint32, torch.uint64)
_SIGN_BIT = torch.iinfo(torch.int64).min


def as_int64(x: Tensor) -> Tensor:
    """The same number modulo ``2**64``: enough for sums and products, which wrap. Other types stay."""
    return x.to(torch.int64) if x.dtype in _UNSIGNED else x


def in_order(x: Tensor) -> Tensor:
    """Numbers that compare as the given ones do; ``from_ordered`` gives those back. Other types stay."""
    return as_int64(x) ^ _SIGN_BIT if x.dtype == torch.uint64 else as_int64(x)


def from_ordered(x: Tensor, dtype: torch.dtype) -> Tensor:
    """The numbers of type ``dtype`` that ``in_order`` made ``x`` of."""
    return (x ^ _SIGN_BIT if dtype == torch.uint64 else x).to(dtype)
