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
    "EXACT_BELOW",
    "MAX_SAFE_PAIR",
    "NOTHING",
    "accumulator_bound",
    "add_codes",
    "add_ratios",
    "border_bias",
    "code_range",
    "dequantize",
    "fit_weight_scale",
    "fold_offset",
    "kernel_sums",
    "mean_multiplier",
    "multiplier",
    "multiply_codes",
    "pair_saturates",
    "quantize",
    "quantize_bias",
    "quantize_shifted",
    "quantize_weight",
    "requantize",
    "rescale_codes",
    "shift_bias",
    "shift_codes",
    "unfold_offset",
]

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from .plan import Grid

Float = NDArray[np.float32]
Int = NDArray[np.int32]

EXACT_BELOW = 2**24
"""Sums of integers whose magnitudes add up to less are exact in float32, in any order."""

MAX_SAFE_PAIR = 2**15 - 1
"""Largest sum of two uint8 x int8 products that CPUs without VNNI add without saturating."""

NOTHING = 2.0**-40
"""A scale at which a dead kernel adds nothing, though its codes on the odd grid are 1 and not 0."""


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
    half: int = 2 ** (bits - 1)
    return (-half if grid is Grid.FULL else 1 - half), half - 1


def _code_ranges(widths: NDArray[np.int64], grid: Grid) -> Float:
    """``code_range`` of each kernel, ``(kernels, 2)``."""
    found: Float = np.array([code_range(bits, grid) for bits in range(9)], np.float32)[widths]
    return found


def quantize(
    x: ArrayLike, scale: ArrayLike, zero_point: int, low: int, high: int, *, offset: ArrayLike = 0
) -> NDArray[np.uint8]:
    """Activation codes: ``clamp(rint((x - offset) / scale) + zero_point, low, high)``.

    Without an offset, this is what QuantizeLinear computes.
    """
    codes = np.rint((_f32(x) - _f32(offset)) / _f32(scale)) + np.float32(zero_point)
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
    ranges = _code_ranges(widths, grid)
    low, high = ranges[:, 0].reshape(shape), ranges[:, 1].reshape(shape)
    real = w / _f32(scale).reshape(shape)
    nearest = np.rint(real)
    if grid is Grid.ODD:
        odd = np.float32(2) * np.floor(real * np.float32(0.5)) + np.float32(1)
        nearest = np.where((widths < 8).reshape(shape), odd, nearest)
    codes: NDArray[np.int8] = np.clip(nearest, low, high).astype(np.int8)
    return codes


def quantize_shifted(
    weight: ArrayLike, scale: ArrayLike, bits: ArrayLike, grid: Grid, shift: int
) -> tuple[NDArray[np.int16], Float]:
    """``quantize_weight`` as files hold it: ``code * 2**shift``, and ``scale / 2**shift``.

    The weights are the same, in finer steps.

    So are biases, which are whole products of scales.
    """
    codes = quantize_weight(weight, scale, bits, grid)
    return codes.astype(np.int16) << shift, _f32(scale) / np.float32(2**shift)


def fit_weight_scale(weight: ArrayLike, bits: ArrayLike, grid: Grid, *, steps: int = 80) -> Float:
    """The scale of each kernel with the least squared error, on a grid of clips.

    The scale runs over ``steps`` even fractions of the smallest one that clips nothing, at either end of the
    grid. A kernel of zeros gets ``NOTHING``: no error comes of it, whatever its width, and its bias is not
    rounded to coarse units. One of 0 bits gets 1.

    Returns:
        ``(kernels,)``, float32, positive.
    """
    w = np.asarray(weight, np.float32)
    flat = w.reshape(len(w), -1)
    widths = np.asarray(bits, np.int64)
    ranges = _code_ranges(widths, grid)
    ends = np.stack([flat.max(axis=1), -flat.min(axis=1)])
    tops = np.maximum(np.stack([ranges[:, 1], -ranges[:, 0]]), 1)
    end = (ends / tops.astype(np.float64)).argmax(axis=0)[None]  # the end that is clipped first
    largest, top = (np.take_along_axis(numbers, end, axis=0)[0] for numbers in (ends, tops))
    used = (largest > 0) & (widths > 0)
    unused = np.where(widths > 0, NOTHING, 1)
    best = np.where(used, np.maximum(largest / top, np.finfo(np.float32).tiny), unused).astype(np.float32)
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
    return _int32(np.rint(_f32(bias) / unit).astype(np.float64))


def fold_offset(
    bias: ArrayLike, x_scale: ArrayLike, w_scale: ArrayLike, offset: ArrayLike, codes: ArrayLike
) -> Int:
    """Bias codes with the offset of the input in them: ``rint(bias / (s_x * s_w) + offset / s_x * sum(w))``.

    ``x_hat = s_x * (x - z) + offset`` in every tap of a kernel adds ``offset * s_w * sum(w)`` to its result.
    That is exact where every tap reads a code, padding too. One rounding, in float64, so that
    ``unfold_offset`` finds a bias of the same codes.

    Source: Bhalgat et al., LSQ+, equation 5, with the sum over the kernel that it leaves out.

    Args:
        bias: ``(kernels,)``, float32.
        x_scale: Real units per code of the input.
        w_scale: ``(kernels,)``, real units per weight code.
        offset: What the zero point of the input stands for.
        codes: Weight codes ``(kernels, ...)``.
    """
    unit = (_f32(x_scale) * _f32(w_scale)).astype(np.float64)
    return _int32(
        np.rint(_f32(bias).astype(np.float64) / unit + _in_codes(offset, x_scale) * kernel_sums(codes))
    )


def unfold_offset(
    codes: ArrayLike, x_scale: ArrayLike, w_scale: ArrayLike, offset: ArrayLike, w_codes: ArrayLike
) -> Float:
    """The bias that ``fold_offset`` made ``codes`` of, to half a unit; folding it again gives ``codes``.

    If floats lie less than a unit apart there, the nearest one is close enough. If they lie further apart, it
    is the bias itself.
    """
    unit = (_f32(x_scale) * _f32(w_scale)).astype(np.float64)
    return _f32((np.asarray(codes, np.float64) - _in_codes(offset, x_scale) * kernel_sums(w_codes)) * unit)


def border_bias(offset: ArrayLike, x_scale: ArrayLike, sums: ArrayLike) -> Int:
    """What an offset adds to an accumulator whose taps on the input have weight codes of these sums, int32.

    ``rint(offset / s_x * sums)``: near a border of real zeros fewer taps are on the input, so the sums
    are a map over the output.
    """
    return _int32(np.rint(_in_codes(offset, x_scale) * np.asarray(sums, np.float64)))


def shift_bias(bias: ArrayLike, x_scale: ArrayLike, w_scale: ArrayLike, offset: ArrayLike) -> Int:
    """Bias codes of a result whose offset is taken off: ``bias - rint(offset / (s_x * s_w))``."""
    unit = (_f32(x_scale) * _f32(w_scale)).astype(np.float64)
    return _int32(np.asarray(bias, np.float64) - np.rint(_f32(offset).astype(np.float64) / unit))


def kernel_sums(codes: ArrayLike) -> NDArray[np.int64]:
    """The sum of the weight codes of each kernel, ``(kernels,)``."""
    w = np.asarray(codes, np.int64)
    sums: NDArray[np.int64] = w.reshape(len(w), -1).sum(axis=1)
    return sums


def _in_codes(offset: ArrayLike, scale: ArrayLike) -> NDArray[np.float64]:
    return _f32(offset).astype(np.float64) / _f32(scale).astype(np.float64)


def _int32(real: NDArray[np.float64]) -> Int:
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


def add_ratios(a_scale: ArrayLike, b_scale: ArrayLike, y_scale: ArrayLike) -> tuple[np.float32, np.float32]:
    """``s_a / s_y`` and ``s_b / s_y``, rounded to a grid on which a sum of codes is exact.

    The grid is ``2**(e - 16)`` where ``r_a + r_b + 1 < 2**e``: then all terms of the sum are whole steps, at
    most ``2**24`` of them, which float32 holds. So no order of the steps and no fused multiply-add makes a
    difference. A term moves by 0.01 codes at most where no scale is above that of the result.
    """
    ratios = np.array([_f32(a_scale) / _f32(y_scale), _f32(b_scale) / _f32(y_scale)], np.float64)
    step = 2.0 ** (int(np.frexp(ratios.sum() + 1)[1]) - 16)
    a, b = (np.maximum(np.rint(ratios / step), 1) * step).astype(np.float32)
    return a, b


def add_codes(
    a: ArrayLike, a_ratio: ArrayLike, a_zero: int, b: ArrayLike, b_ratio: ArrayLike, b_zero: int,
    y_zero: int, low: int, high: int,
) -> NDArray[np.uint8]:  # fmt: skip
    """``clamp(rint((a - z_a) * r_a + (b - z_b) * r_b + z_y), low, high)``, the ratios of ``add_ratios``.

    With these QLinearAdd equals this on any CPU; with others it rounds between the steps, in an order that
    depends on the CPU. A difference has ``-r_b`` in the place of ``r_b``.
    """
    left = (_f32(a) - np.float32(a_zero)) * _f32(a_ratio)
    right = (_f32(b) - np.float32(b_zero)) * _f32(b_ratio)
    return _clamped(np.rint(left + right + np.float32(y_zero)), low, high)


def shift_codes(
    codes: ArrayLike, x_scale: ArrayLike, x_zero: int, shift: ArrayLike, y_scale: ArrayLike, y_zero: int,
    low: int, high: int,
) -> NDArray[np.uint8]:  # fmt: skip
    """Codes plus real constants: ``clamp(rint((x - z_x) * (s_x / s_y) + shift / s_y) + z_y, low, high)``.

    An offset of the result is taken off the constants before; constants less codes have ``-s_x``.
    """
    scaled = (_f32(codes) - np.float32(x_zero)) * (_f32(x_scale) / _f32(y_scale))
    real = scaled + _f32(shift) / _f32(y_scale)
    return _clamped(np.rint(real) + np.float32(y_zero), low, high)


def rescale_codes(
    codes: ArrayLike, x_scale: float, x_zero: int, y_scale: float, y_zero: int, low: int, high: int
) -> NDArray[np.uint8]:
    """Codes under another scale: ``quantize(dequantize(codes))``, as QLinearConcat computes it."""
    return quantize(dequantize(codes, x_scale, x_zero), y_scale, y_zero, low, high)


def multiply_codes(
    a: ArrayLike, a_scale: float, a_zero: int, b: ArrayLike, b_scale: float, b_zero: int,
    y_scale: float, y_zero: int, low: int, high: int,
) -> NDArray[np.uint8]:  # fmt: skip
    """``clamp(rint((a - z_a) * (b - z_b) * (s_a * s_b / s_y) + z_y), low, high)``, as QLinearMul computes it.

    The product of codes is exact, and the zero point goes in before rounding.
    """
    product = (_f32(a) - np.float32(a_zero)) * (_f32(b) - np.float32(b_zero))
    factor = multiplier(a_scale, b_scale, y_scale)
    return _clamped(np.rint(product * factor + np.float32(y_zero)), low, high)


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
