"""How many elements the windows of an AveragePool divide by."""

from __future__ import annotations

__all__ = ["divisors"]

from collections.abc import Sequence
from functools import reduce

import numpy as np
from numpy.typing import NDArray


def divisors(
    sizes: Sequence[int],
    kernel: Sequence[int],
    strides: Sequence[int],
    pads: Sequence[int],
    dilations: Sequence[int],
    *,
    ceil_mode: bool,
    count_padding: bool,
) -> tuple[NDArray[np.int64], list[int]]:
    """The divisor of every window, and how far the last ones reach beyond the padding.

    Source: ONNX operator AveragePool, attributes ``ceil_mode`` and ``count_include_pad``. What is beyond the
    padding never counts, and no window begins there.

    Args:
        sizes: Spatial sizes of the input.
        kernel: Sizes of the window; the other sequences are the attributes of the operator.
        strides: One per axis.
        pads: All begins and then all ends.
        dilations: One per axis.
        ceil_mode: Whether a window that is not whole counts as one.
        count_padding: Whether padding counts.

    Returns:
        Divisors, of the spatial shape of the result; and per axis the elements beyond, at the end.
    """
    rank, counts, beyond = len(kernel), [], []
    for axis, size in enumerate(sizes):
        before, after, stride = pads[axis], pads[axis + rank], strides[axis]
        room = size + before + after - ((kernel[axis] - 1) * dilations[axis] + 1)
        steps = -(-room // stride) if ceil_mode else room // stride
        if steps * stride >= size + before:
            steps -= 1
        places = np.arange(steps + 1)[:, None] * stride - before + np.arange(kernel[axis]) * dilations[axis]
        low, high = (-before, size + after) if count_padding else (0, size)
        counts.append(((places >= low) & (places < high)).sum(1))
        beyond.append(max(int(steps * stride - room), 0))
    return reduce(np.multiply.outer, counts), beyond
