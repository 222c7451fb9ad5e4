"""What convolution and pooling windows share."""

from __future__ import annotations

__all__ = ["torch_pads"]


def torch_pads(pads: tuple[int, ...]) -> list[int]:
    """Turn ONNX pads, all begins and then all ends, into ``F.pad``'s: last axis first, begin and end in turn.

    >>> torch_pads((1, 2, 3, 4))
    [2, 4, 1, 3]
    """
    rank = len(pads) // 2
    return [side for axis in reversed(range(rank)) for side in (pads[axis], pads[rank + axis])]
