"""Rotary embedding: positions written into what goes into attention."""

from __future__ import annotations

__all__ = ["import_rotary_embedding", "rotary_embedding"]

import onnx_ir as ir
import torch
from torch import Tensor

from .registry import leaf, register


@register("RotaryEmbedding", 23)
def import_rotary_embedding(
    node: ir.Node,
    x: Tensor,
    cos: Tensor,
    sin: Tensor,
    positions: Tensor | None = None,
    *,
    interleaved: int = 0,
    num_heads: int = 0,
    rotary_embedding_dim: int = 0,
) -> Tensor:
    """Import RotaryEmbedding; the tables of cosines and sines are not trained."""
    return rotary_embedding(x, cos, sin, positions, bool(interleaved), num_heads, rotary_embedding_dim)


@leaf
def rotary_embedding(
    x: Tensor,
    cos: Tensor,
    sin: Tensor,
    positions: Tensor | None,
    interleaved: bool,
    heads: int,
    rotated: int,
) -> Tensor:
    """Turn pairs of numbers by an angle that grows with the position (arXiv 2104.09864, eq. 34).

    Args:
        x: ``(batch, heads, sequence, size)``, or ``(batch, sequence, heads * size)``.
        cos: ``(batch, sequence, rotated / 2)``, or ``(positions, rotated / 2)`` with ``positions``.
        sin: The same.
        positions: ``(batch, sequence)``, rows of the tables.
        interleaved: Whether the pairs are neighbours, or from the two halves.
        heads: Where ``x`` is of rank 3.
        rotated: How many numbers of each head to turn, 0 for all.
    """
    heads_last = x.unflatten(2, (heads, -1)) if x.ndim == 3 else x.transpose(1, 2)
    rotated = rotated or heads_last.shape[3]
    turned, kept = heads_last[..., :rotated], heads_last[..., rotated:]
    if positions is not None:
        cos, sin = cos[positions], sin[positions]
    cos, sin = cos.unsqueeze(2), sin.unsqueeze(2)
    a, b = (turned[..., ::2], turned[..., 1::2]) if interleaved else turned.chunk(2, -1)
    pair = (cos * a - sin * b, sin * a + cos * b)
    turned = torch.stack(pair, -1).flatten(-2) if interleaved else torch.cat(pair, -1)
    y = torch.cat((turned, kept), -1) if kept.shape[3] else turned
    return y.flatten(2) if x.ndim == 3 else y.transpose(1, 2)
