"""Integer operators in numpy, each a few lines over ``passes/arithmetic.py``."""

from __future__ import annotations

__all__ = ["average", "concat", "convolve", "correlate", "matmul", "max_pool", "one"]

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from mpqtool.passes import arithmetic

from .errors import RuntimeFault

U8 = NDArray[np.uint8]
_CHUNK = 1 << 19
"""Elements of one block of unfolded input: it stays in the cache between unfolding and product."""


def one(value: NDArray[Any] | None, default: float = 0) -> Any:
    """The one element of a scale or zero point, as a numpy scalar."""
    if value is None:
        return default
    if value.size != 1:
        raise RuntimeFault(
            f"The reference needs one scale and zero point per activation, found {value.size}. "
            "Run the file with ONNX Runtime alone."
        )
    return value.reshape(-1)[0]


def exact_dtype(codes: NDArray[Any], bias: NDArray[Any], x_zero: int) -> type[np.floating[Any]]:
    """float32 if every partial sum is an integer below 2**24, which it holds exactly; else float64.

    Any order of summation is then exact, so a BLAS product gives the integer accumulator.
    """
    magnitude = np.abs(codes.astype(np.int64))
    bound = arithmetic.accumulator_bound(
        magnitude, np.abs(bias.astype(np.int64)), 0, max(255 - x_zero, x_zero)
    )
    return np.float32 if bound < arithmetic.EXACT_BELOW else np.float64


def convolve(
    x: U8, x_zero: int, weight: NDArray[Any], bias: NDArray[Any] | None, factor: NDArray[np.float32],
    y_zero: int, *, strides: Sequence[int], pads: Sequence[int], dilations: Sequence[int], group: int,
) -> U8:  # fmt: skip
    """QLinearConv on ``(n, channels, *spatial)``; ``weight`` holds codes without their zero point."""
    offsets = np.zeros(len(weight), np.int64) if bias is None else bias
    dtype = exact_dtype(weight, offsets, x_zero)
    column = (-1, *[1] * (weight.ndim - 2))
    added, factors = offsets.astype(dtype).reshape(column), factor.reshape(column)
    out: U8 | None = None
    for rows, acc in _accumulators(x, x_zero, weight, dtype, strides, pads, dilations, group):
        if out is None:
            out = np.empty((len(x), *acc.shape[1:]), np.uint8)
        acc += added
        out[rows] = arithmetic.requantize(acc, factors, y_zero, 0, 255)
    assert out is not None  # there is a part, be it empty
    return out


def correlate(
    x: NDArray[Any], x_zero: int, weight: NDArray[Any], dtype: type[np.floating[Any]], *,
    strides: Sequence[int], pads: Sequence[int], dilations: Sequence[int], group: int,
) -> NDArray[np.floating[Any]]:  # fmt: skip
    """The sums of a convolution, in ``dtype``: of integers they are exact while that holds them."""
    parts = _accumulators(x, x_zero, weight, dtype, strides, pads, dilations, group)
    return np.concatenate([acc for _, acc in parts])


def _accumulators(
    x: NDArray[Any], x_zero: int, weight: NDArray[Any], dtype: type[np.floating[Any]], strides: Sequence[int],
    pads: Sequence[int], dilations: Sequence[int], group: int,
) -> Iterator[tuple[slice, NDArray[np.floating[Any]]]]:  # fmt: skip
    """Sums ``(samples, kernels, *spatial)`` of a few samples at a time, and which these are."""
    kernels, rank = len(weight), weight.ndim - 2
    matrix = weight.reshape(group, kernels // group, -1).astype(dtype)
    windows = [(k - 1) * d + 1 for k, d in zip(weight.shape[2:], dilations, strict=True)]
    around = [(pads[i], pads[i + rank]) for i in range(rank)]
    sizes = [(size + sum(around[i]) - windows[i]) // strides[i] + 1 for i, size in enumerate(x.shape[2:])]
    positions = int(np.prod(sizes))
    step = max(1, _CHUNK // max(1, matrix.shape[0] * matrix.shape[2] * positions))
    skip: tuple[Any, ...] = tuple(slice(None, None, step) for step in (*strides, *dilations))
    spatial = tuple(range(2, 2 + rank))
    order = (0, 1, *range(2 + rank, 2 + 2 * rank), *spatial)
    for start in range(0, max(len(x), 1), step):  # the sizes are those of no samples too
        rows = slice(start, start + step)
        part = x[rows].astype(dtype) - dtype(x_zero)
        if any(map(any, around)):
            part = np.pad(part, [(0, 0), (0, 0), *around])
        view = sliding_window_view(part, windows, axis=spatial)[(..., *skip)].transpose(order)
        columns = view.reshape(len(part), group, matrix.shape[2], positions)
        yield rows, np.matmul(matrix, columns).reshape(len(part), kernels, *sizes)


def matmul(x: U8, x_zero: int, weight: NDArray[Any], bias: NDArray[Any] | None) -> NDArray[np.floating[Any]]:
    """The accumulator ``(x - x_zero) @ weight.T + bias`` of QGemm: integers, held in floats."""
    offsets = np.zeros(len(weight), np.int64) if bias is None else bias
    dtype = exact_dtype(weight, offsets, x_zero)
    acc: NDArray[np.floating[Any]] = (x.astype(dtype) - dtype(x_zero)) @ weight.T.astype(dtype)
    return acc + offsets.astype(dtype)


def average(x: U8, x_scale: np.float32, x_zero: int, y_scale: np.float32, y_zero: int) -> U8:
    """QLinearGlobalAveragePool on ``(n, channels, *spatial)``."""
    axes = tuple(range(2, x.ndim))
    count = int(np.prod(x.shape[2:]))
    acc = x.sum(axis=axes, keepdims=True, dtype=np.int64) - count * x_zero
    factor = arithmetic.mean_multiplier(x_scale, y_scale, count)
    return arithmetic.requantize(acc, factor, y_zero, 0, 255)


def concat(parts: Sequence[tuple[U8, np.float32, int]], y_scale: np.float32, y_zero: int, axis: int) -> U8:
    """QLinearConcat."""
    return np.concatenate(
        [arithmetic.rescale_codes(x, float(s), z, float(y_scale), y_zero, 0, 255) for x, s, z in parts], axis
    )


def max_pool(
    x: NDArray[Any], window: Sequence[int], *, strides: Sequence[int], pads: Sequence[int],
    dilations: Sequence[int], ceil_mode: bool,
) -> NDArray[Any]:  # fmt: skip
    """MaxPool on codes or real values; what is padded is the smallest there is, and never wins."""
    rank = len(window)
    spans = [(k - 1) * d + 1 for k, d in zip(window, dilations, strict=True)]
    around = []
    for i in range(rank):
        size, before, after = x.shape[2 + i], pads[i], pads[i + rank]
        if ceil_mode:  # a last window that begins inside the input or its left padding counts
            room = size + before + after - spans[i]
            steps = -(-room // strides[i])
            if steps * strides[i] >= size + before:
                steps -= 1
            after = max(after, steps * strides[i] + spans[i] - size - before)
        around.append((before, after))
    least = np.iinfo(x.dtype).min if x.dtype.kind in "iu" else -np.inf
    padded = np.pad(x, [(0, 0), (0, 0), *around], constant_values=least) if any(map(any, around)) else x
    sizes = [(padded.shape[2 + i] - spans[i]) // strides[i] + 1 for i in range(rank)]
    best: NDArray[Any] | None = None
    for offset in np.ndindex(*window):
        taken: list[Any] = []
        for o, d, n, s in zip(offset, dilations, sizes, strides, strict=True):
            taken.append(slice(o * d, o * d + (n - 1) * s + 1, s))
        part = padded[(..., *taken)]
        best = part.copy() if best is None else np.maximum(best, part, out=best)
    assert best is not None
    return best
