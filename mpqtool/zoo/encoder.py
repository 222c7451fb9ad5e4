"""A small transformer encoder on the patches of an image."""

from __future__ import annotations

__all__ = ["Transformer", "transformer"]

import math

import torch
from torch import Tensor, nn

from .layers import check_counts


class _Attention(nn.Module):
    """Self-attention of several heads: ``softmax(q k^T / sqrt(d)) v``.

    Source: Vaswani et al., Attention Is All You Need, 2017, equation 1 and section 3.2.2.

    Shape:
        Input and output ``(batch, tokens, width)``.
    """

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.query, self.value, self.out = (nn.Linear(width, width) for _ in range(3))
        self.key = nn.Linear(width, width, bias=False)  # it would shift all scores of a query alike

    def _split(self, x: Tensor) -> Tensor:
        """``(batch, tokens, width)`` to ``(batch, heads, tokens, width / heads)``."""
        return x.reshape(x.shape[0], x.shape[1], self.heads, -1).transpose(1, 2)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self._split(self.query(x)), self._split(self.key(x)), self._split(self.value(x))
        scores = torch.matmul(q, k.transpose(2, 3)) / math.sqrt(q.shape[3])
        mixed = torch.matmul(torch.softmax(scores, dim=3), v)
        y: Tensor = self.out(mixed.transpose(1, 2).flatten(2))
        return y


class _Block(nn.Module):
    """Attention and two linear layers with GELU, each behind a LayerNorm and beside a shortcut."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width)
        self.attention = _Attention(width, heads)
        self.norm2 = nn.LayerNorm(width)
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attention(self.norm1(x))
        y: Tensor = x + self.mlp(self.norm2(x))
        return y


class Transformer(nn.Module):
    """Linear patches, learned positions, blocks, the mean of the tokens, one linear layer.

    Source: Dosovitskiy et al., An Image is Worth 16x16 Words, ICLR 2021, equations 1 to 4, with the mean of
    the tokens in place of a class token.

    Args:
        in_channels: Channels of the image.
        classes: Number of logits.
        size: Pixels on a side of the image, a multiple of ``patch``; the positions depend on it.
        patch: Pixels on a side of a patch.
        width: Features of a token, a multiple of ``heads``.
        depth: Number of blocks.
        heads: Attention heads of a block.

    Attributes:
        input_shape: ``(in_channels, size, size)``.

    Shape:
        Input ``(batch, in_channels, size, size)``, output ``(batch, classes)``, float32.
    """

    def __init__(
        self, *, in_channels: int, classes: int, size: int, patch: int, width: int, depth: int, heads: int
    ) -> None:
        super().__init__()
        check_counts(in_channels=in_channels, classes=classes, size=size, patch=patch)
        check_counts(width=width, depth=depth, heads=heads)
        if size % patch:
            raise ValueError(f"size must be a multiple of patch, {patch}; got {size}")
        if width % heads:
            raise ValueError(f"width must be a multiple of heads, {heads}; got {width}")
        self.input_shape = (in_channels, size, size)
        self.patches = nn.Conv2d(in_channels, width, patch, stride=patch)
        self.positions = nn.Parameter(0.02 * torch.randn(1, (size // patch) ** 2, width))
        self.blocks = nn.Sequential(*(_Block(width, heads) for _ in range(depth)))
        self.norm = nn.LayerNorm(width)
        self.fc = nn.Linear(width, classes)

    def forward(self, x: Tensor) -> Tensor:
        tokens = self.patches(x).flatten(2).transpose(1, 2) + self.positions
        logits: Tensor = self.fc(self.norm(self.blocks(tokens)).mean(1))
        return logits


def transformer(
    *,
    in_channels: int = 3,
    classes: int = 10,
    size: int = 32,
    patch: int = 4,
    width: int = 128,
    depth: int = 6,
    heads: int = 4,
) -> Transformer:
    """A small vision transformer: 1.20 million parameters at 10 classes, 82.2 million MACs at 3x32x32."""
    return Transformer(
        in_channels=in_channels,
        classes=classes,
        size=size,
        patch=patch,
        width=width,
        depth=depth,
        heads=heads,
    )
