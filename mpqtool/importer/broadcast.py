"""Shapes that broadcast."""

from __future__ import annotations

__all__ = ["along"]

from torch import Tensor


def along(row: Tensor, axis: int, rank: int) -> Tensor:
    """A vector as a tensor of that rank that lies along that axis."""
    return row.view([-1 if other == axis % rank else 1 for other in range(rank)])
