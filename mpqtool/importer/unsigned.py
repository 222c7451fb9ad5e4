"""Integers in types that torch has kernels for."""

from __future__ import annotations

__all__ = ["as_float64", "as_int64", "from_ordered", "in_order"]

import torch
from torch import Tensor

from .bits import UNSIGNED

_SIGN_BIT = torch.iinfo(torch.int64).min


def as_int64(x: Tensor) -> Tensor:
    """The same number modulo ``2**64``: enough for sums and products, which wrap. Other types stay."""
    return x.to(torch.int64) if x.dtype in UNSIGNED else x


def as_float64(x: Tensor) -> Tensor:
    """Integers as float64, for functions that torch has of floats alone. Floats stay."""
    return x if x.is_floating_point() else x.double()


def in_order(x: Tensor) -> Tensor:
    """Numbers that compare as the given ones do; ``from_ordered`` gives those back. Other types stay."""
    return as_int64(x) ^ _SIGN_BIT if x.dtype == torch.uint64 else as_int64(x)


def from_ordered(x: Tensor, dtype: torch.dtype) -> Tensor:
    """The numbers of type ``dtype`` that ``in_order`` made ``x`` of."""
    return (x ^ _SIGN_BIT if dtype == torch.uint64 else x).to(dtype)
