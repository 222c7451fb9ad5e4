"""The definition of codes, rounding, clamping and requantization.

One semantics for the whole project (QLinearConv of ONNX Runtime, measured bit for bit):

    acc = sum((x - x_zero) * w) + bias                               int32
    y   = clamp(rint(float32(acc) * multiplier) + y_zero, low, high)
    multiplier = float32(float32(s_x * s_w) / s_y)                   per output channel

``rint`` rounds half to even. All real arithmetic is float32, one IEEE operation at a time. The torch
simulation, the passes, the reference interpreter and ONNX Runtime are all tested against this file.
"""

from __future__ import annotations

__all__ = [
    "MAX_SAFE_PAIR",
    "accumulator_bound",
    "add_codes",
    "code_range",
    "dequantize",
    "fit_weight_scale",
    "mean_multiplier",
    "multiplier",
    "pair_saturates",
    "quantize",
    "quantize_bias",
    "quantize_weight",
    "requantize",
    "rescale_codes",
]

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from .plan import Grid

Float = NDArray[np.float32]
Int = NDArray[np.int32]

MAX_SAFE_PAIR = 2**15 - 1
"""Largest sum of two uint8 x int8 products that CPUs without VNNI add without saturating."""


def _f32(numbers: ArrayLike) -> Float:
    return np.asarray(numbers, np.float32)


def _clamped(codes: Float, low: int, high: int) -> NDArray[np.uint8]:
    clamped: NDArray[np.uint8] = np.clip(codes, low, high).astype(np.uint8)
    return clamped


def code_range(bits: int, grid: Grid) -> tuple[int, int]:
    """Smallest and largest code of a weight of ``bits`` bits; ``(0, 0)`` at 0 bits."""
    if bits == 0:
        return 0, 0
    if grid is Grid.ODD and bits < 8:
        return -(2**bits - 1), 2**bits - 1
    return -(2 ** (bits - 1) - 1), 2 ** (bits - 1) - 1


def quantize(x: ArrayLike, scale: ArrayLike, zero_point: int, low: int, high: int) -> NDArray[np.uint8]:
    """Activation codes: ``clamp(rint(x / scale) + zero_point, low, high)``, as QuantizeLinear computes it."""
    codes = np.rint(_f32(x) / _f32(scale)) + np.float32(zero_point)
    return _clamped(codes, low, high)


def dequantize(codes: ArrayLike, scale: ArrayLike, zero_point: ArrayLike = 0, *, axis: int = -1) -> Float:
    """Real values ``scale * (code - zero_point)``, float32; vectors of these two are along ``axis``."""
    integers = np.asarray(codes, np.int32)

    def along(numbers: NDArray[Any]) -> NDArray[Any]:
        if numbers.ndim != 1 or integers.ndim < 2:
            return numbers
        shape = [1] * integers.ndim
        shape[axis] = -1
        return numbers.reshape(shape)

    centered = integers - along(np.asarray(zero_point, np.int32))
    real: Float = centered.astype(np.float32) * along(_f32(scale))
    return real


def quantize_weight(weight: ArrayLike, scale: ArrayLike, bits: ArrayLike, grid: Grid) -> NDArray[np.int8]:
    """Weight codes, kernel by kernel.

    ``ODD`` below 8 bits: ``2 * floor(w / (2 * scale)) + 1``, the nearest odd code; otherwise
    ``rint(w / scale)``. Both are clamped to ``code_range``.

    Args:
        weight: ``(kernels, ...)``, float32.
        scale: ``(kernels,)``, real units per code.
        bits: ``(kernels,)``, 0 to 8.
        grid: Which integers the codes are.

    Returns:
        ``(kernels, ...)``, int8.
    """
    w = _f32(weight)
    shape = (-1, *[1] * (w.ndim - 1))
    widths = np.asarray(bits, np.int64)
    ranges = np.array([code_range(int(b), grid) for b in widths], np.float32)
    low, high = ranges[:, 0].reshape(shape), ranges[:, 1].reshape(shape)
    real = w / _f32(scale).reshape(shape)
    nearest = np.rint(real)
    if grid is Grid.ODD:
        odd = np.float32(2) * np.floor(real * np.float32(0.5)) + np.float32(1)
        nearest = np.where((widths < 8).reshape(shape), odd, nearest)
    codes: NDArray[np.int8] = np.clip(nearest, low, high).astype(np.int8)
    return codes


def fit_weight_scale(weight: ArrayLike, bits: ArrayLike, grid: Grid, *, steps: int = 80) -> Float:
    """The scale of each kernel with the least squared error, on a grid of clips.

    The clip runs over ``steps`` even fractions of the largest magnitude. A kernel of zeros, or of
    0 bits, gets scale 1.

    Returns:
        ``(kernels,)``, float32, positive.
    """
    w = np.asarray(weight, np.float32)
    flat = w.reshape(len(w), -1)
    widths = np.asarray(bits, np.int64)
    top = np.array([max(code_range(int(b), grid)[1], 1) for b in widths], np.float32)
    largest = np.abs(flat).max(axis=1)
    used = (largest > 0) & (widths > 0)
    best = np.where(used, np.maximum(largest / top, np.finfo(np.float32).tiny), np.float32(1))
    best = best.astype(np.float32)
    least = np.full(len(w), np.inf, np.float32)
    for fraction in np.linspace(1, 1 / steps, steps, dtype=np.float32):
        scale = np.where(used, np.maximum(largest * fraction / top, np.finfo(np.float32).tiny), 1)
        scale = scale.astype(np.float32)
        error = flat - quantize_weight(flat, scale, widths, grid) * scale[:, None]
        squared = np.square(error, dtype=np.float32).sum(axis=1)
        better = used & (squared < least)
        best, least = np.where(better, scale, best), np.where(better, squared, least)
    return best.astype(np.float32)


def quantize_bias(bias: ArrayLike, x_scale: ArrayLike, w_scale: ArrayLike) -> Int:
    """Bias codes ``rint(bias / (s_x * s_w))``, clamped to int32 (ONNX QLinearConv)."""
    unit = _f32(x_scale) * _f32(w_scale)
    real = np.rint(_f32(bias) / unit).astype(np.float64)
    limit = np.iinfo(np.int32)
    return np.clip(real, limit.min, limit.max).astype(np.int32)


def multiplier(x_scale: ArrayLike, w_scale: ArrayLike, y_scale: ArrayLike) -> Float:
    """``float32(float32(s_x * s_w) / s_y)``, one per output channel."""
    return (_f32(x_scale) * _f32(w_scale)) / _f32(y_scale)


def mean_multiplier(x_scale: ArrayLike, y_scale: ArrayLike, count: int) -> Float:
    """``float32(s_x / float32(s_y * count))``: the multiplier of a sum over ``count`` codes."""
    return _f32(x_scale) / (_f32(y_scale) * np.float32(count))


def requantize(acc: ArrayLike, factor: ArrayLike, zero_point: int, low: int, high: int) -> NDArray[np.uint8]:
    """``clamp(rint(float32(acc) * factor) + zero_point, low, high)``; ``factor`` broadcasts."""
    return _clamped(np.rint(_f32(acc) * _f32(factor)) + np.float32(zero_point), low, high)


def add_codes(
    a: ArrayLike, a_scale: float, a_zero: int, b: ArrayLike, b_scale: float, b_zero: int,
    y_scale: float, y_zero: int, low: int, high: int,
) -> NDArray[np.uint8]:  # fmt: skip
    """``clamp(rint((a - z_a) * (s_a / s_y) + (b - z_b) * (s_b / s_y) + z_y), low, high)``.

    QLinearAdd equals this where both ratios are powers of two (the zero point goes in before rounding).
    """
    ratio_a, ratio_b = _f32(a_scale) / _f32(y_scale), _f32(b_scale) / _f32(y_scale)
    left = (_f32(a) - np.float32(a_zero)) * ratio_a
    right = (_f32(b) - np.float32(b_zero)) * ratio_b
    return _clamped(np.rint(left + right + np.float32(y_zero)), low, high)


def rescale_codes(
    codes: ArrayLike, x_scale: float, x_zero: int, y_scale: float, y_zero: int, low: int, high: int
) -> NDArray[np.uint8]:
    """Codes under another scale: ``quantize(dequantize(codes))``, as QLinearConcat computes it."""
    return quantize(dequantize(codes, x_scale, x_zero), y_scale, y_zero, low, high)


def accumulator_bound(codes: ArrayLike, bias: ArrayLike, low: int, high: int) -> int:
    """Largest ``abs(acc)`` that any input can reach (methods: data-free exact bound).

    Args:
        codes: Weight codes ``(kernels, ...)``.
        bias: Bias codes ``(kernels,)``.
        low: Smallest ``x - x_zero``; at most 0.
        high: Largest ``x - x_zero``.
    """
    w = np.asarray(codes, np.int64).reshape(len(np.asarray(codes)), -1)
    b = np.asarray(bias, np.int64)
    top = np.maximum(w * low, w * high).sum(axis=1) + b
    bottom = np.minimum(w * low, w * high).sum(axis=1) + b
    return int(max(np.abs(top).max(), np.abs(bottom).max()))


def pair_saturates(codes: ArrayLike, x_high: int) -> bool:
    """Whether a uint8 x int8 dot product can saturate on a CPU without VNNI.

    Such CPUs add two products in int16 first. Safe if twice the largest product fits.

    Args:
        codes: Weight codes, any shape.
        x_high: Largest code of the input (the stored one, zero point included).
    """
    return 2 * x_high * int(np.abs(np.asarray(codes, np.int64)).max(initial=0)) > MAX_SAFE_PAIR
