"""Operators that move square blocks of an image to its channels, and back."""

from __future__ import annotations

__all__ = ["depth_to_space", "import_depth_to_space", "import_space_to_depth", "space_to_depth"]

import onnx_ir as ir
from torch import Tensor

from .registry import leaf, register, unsupported

_MODES = ("DCR", "CRD")


@register("DepthToSpace", 1, 11, 13, 28, moved=("x",))
def import_depth_to_space(node: ir.Node, x: Tensor, *, blocksize: int, mode: str = "DCR") -> Tensor:
    """Import DepthToSpace."""
    return depth_to_space(x, blocksize, _channels_last(node, mode))


@register("SpaceToDepth", 1, 13, 28, moved=("x",))
def import_space_to_depth(node: ir.Node, x: Tensor, *, blocksize: int, mode: str = "DCR") -> Tensor:
    """Import SpaceToDepth."""
    return space_to_depth(x, blocksize, _channels_last(node, mode))


def _channels_last(node: ir.Node, mode: str) -> bool:
    """Whether the place in the block comes before the channel (DCR), not after it (CRD)."""
    if mode not in _MODES:
        raise unsupported(node, f"mode={mode!r}, and handled are 'DCR', 'CRD'")
    return mode == "DCR"


@leaf
def depth_to_space(x: Tensor, block: int, channels_last: bool) -> Tensor:
    """``(batch, channels * block**2, h, w)`` to ``(batch, channels, h * block, w * block)``."""
    n, depth, h, w = x.shape
    channels = depth // block**2
    if channels_last:
        blocks = x.reshape(n, block, block, channels, h, w).permute(0, 3, 4, 1, 5, 2)
    else:
        blocks = x.reshape(n, channels, block, block, h, w).permute(0, 1, 4, 2, 5, 3)
    return blocks.reshape(n, channels, h * block, w * block)


@leaf
def space_to_depth(x: Tensor, block: int, channels_last: bool) -> Tensor:
    """The way back of ``depth_to_space``."""
    n, channels, h, w = x.shape
    blocks = x.reshape(n, channels, h // block, block, w // block, block)
    order = (0, 3, 5, 1, 2, 4) if channels_last else (0, 1, 3, 5, 2, 4)
    return blocks.permute(order).reshape(n, channels * block**2, h // block, w // block)
