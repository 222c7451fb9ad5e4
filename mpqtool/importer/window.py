"""What convolution and pooling windows share: padding, and where the windows lie."""

from __future__ import annotations

__all__ = [
    "SAME",
    "ceil_pads",
    "check_auto_pad",
    "same_pads",
    "spatial_attributes",
    "split_pads",
    "torch_pads",
    "windows",
]

from collections.abc import Sequence

import onnx_ir as ir
from torch import Tensor

from .attributes import one_of

SAME = ("SAME_UPPER", "SAME_LOWER")
"""Values of ``auto_pad`` by which the padding depends on the size of the input."""


def check_auto_pad(node: ir.Node, auto_pad: str) -> str:
    """Return the value of ``auto_pad``.

    Raises:
        UnsupportedOpError: There is no such value.
    """
    return one_of(node, "auto_pad", auto_pad, ("NOTSET", *SAME, "VALID"))


def torch_pads(pads: tuple[int, ...]) -> list[int]:
    """Turn ONNX pads, all begins and then all ends, into ``F.pad``'s: last axis first, begin and end in turn.

    >>> torch_pads((1, 2, 3, 4))
    [2, 4, 1, 3]
    """
    rank = len(pads) // 2
    return [side for axis in reversed(range(rank)) for side in (pads[axis], pads[rank + axis])]


def spatial_attributes(
    rank: int,
    strides: tuple[int, ...] | None,
    pads: tuple[int, ...] | None,
    dilations: tuple[int, ...] | None,
    auto_pad: str,
) -> tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]:
    """Strides, pads and dilations with the schemas' defaults; with ``auto_pad``, ``pads`` do not count."""
    explicit = pads if pads and auto_pad == "NOTSET" else (0,) * (2 * rank)
    return strides or (1,) * rank, explicit, dilations or (1,) * rank


def same_pads(
    sizes: Sequence[int],
    kernel: Sequence[int],
    stride: Sequence[int],
    dilation: Sequence[int],
    auto_pad: str,
) -> tuple[int, ...]:
    """The pads of ``auto_pad`` SAME: ``ceil(size / stride)`` windows, the odd one at the end for UPPER.

    >>> same_pads([5], [4], [1], [1], "SAME_UPPER")
    (1, 2)
    """
    totals = [
        max((-(-size // step) - 1) * step + (width - 1) * spread + 1 - size, 0)
        for size, width, step, spread in zip(sizes, kernel, stride, dilation, strict=True)
    ]
    return split_pads(totals, auto_pad)


def split_pads(totals: Sequence[int], auto_pad: str) -> tuple[int, ...]:
    """Begins and ends of these totals: the odd one at the end for SAME_UPPER, else at the beginning.

    >>> split_pads([3, 2], "SAME_UPPER")
    (1, 1, 2, 1)
    """
    small, large = [total // 2 for total in totals], [total - total // 2 for total in totals]
    return (*small, *large) if auto_pad == "SAME_UPPER" else (*large, *small)


def ceil_pads(
    sizes: Sequence[int],
    kernel: Sequence[int],
    stride: Sequence[int],
    dilation: Sequence[int],
    pads: tuple[int, ...],
) -> tuple[int, ...]:
    """Pads by which whole windows are those of ``ceil_mode``.

    There the last window may hang over the end, but not start in the padding. So an end can be less than the
    given one, even negative.

    >>> ceil_pads([5], [2], [2], [1], (0, 0))
    (0, 1)
    """
    rank = len(kernel)
    ends = []
    for axis in range(rank):
        size, begin, step = sizes[axis], pads[axis], stride[axis]
        extent = (kernel[axis] - 1) * dilation[axis] + 1
        count = -(-(size + begin + pads[rank + axis] - extent) // step) + 1
        if (count - 1) * step >= size + begin:
            count -= 1
        ends.append((count - 1) * step + extent - size - begin)
    return (*pads[:rank], *ends)


def windows(x: Tensor, kernel: Sequence[int], stride: Sequence[int], dilation: Sequence[int]) -> Tensor:
    """A view ``(batch, channels, *counts, *kernel)`` of all windows of ``(batch, channels, *spatial)``."""
    for axis, (width, step, spread) in enumerate(zip(kernel, stride, dilation, strict=True), start=2):
        x = x.unfold(axis, (width - 1) * spread + 1, step)[..., ::spread]
    return x
