"""The arithmetic of QuantizeLinear and DequantizeLinear, with gradients.

Torch has no gradient through integers, so codes are carried as float32, and the gradient passes the
rounding as if it were not there.
"""

from __future__ import annotations

__all__ = ["CARRIES_CODES", "CODES", "code_range", "dequantize", "dynamic_quantize", "quantize"]

import onnx_ir as ir
import torch
from torch import Tensor

from mpqtool.quantizers.rounding import round_ste

from .broadcast import along
from .cast import to_float8
from .dtypes import TORCH_DTYPES
from .registry import leaf

CODES = frozenset(
    {
        ir.DataType.INT2,
        ir.DataType.UINT2,
        ir.DataType.INT4,
        ir.DataType.UINT4,
        ir.DataType.INT8,
        ir.DataType.UINT8,
        ir.DataType.INT16,
        ir.DataType.UINT16,
        ir.DataType.FLOAT8E4M3FN,
        ir.DataType.FLOAT8E4M3FNUZ,
        ir.DataType.FLOAT8E5M2,
        ir.DataType.FLOAT8E5M2FNUZ,
    }
)
"""The types of codes that QuantizeLinear gives, as far as torch can hold them."""

CARRIES_CODES = frozenset(
    {
        "Cast",
        "Clip",
        "ConvInteger",
        "DequantizeLinear",
        "MatMulInteger",
        "Max",
        "MaxPool",
        "Min",
        "QLinearConv",
        "QLinearMatMul",
    }
)
"""Operators that take codes carried as float32, beside those that only move them."""


def code_range(dtype: ir.DataType) -> tuple[float, float]:
    """The smallest and the largest code of a type, as float32 holds them."""
    if dtype.is_floating_point():
        largest = torch.finfo(TORCH_DTYPES[dtype]).max
        return -largest, largest
    if dtype == ir.DataType.INT32:  # a bias; 2**31 - 1 is no float32
        return -(2.0**31), 2.0**31 - 2**7
    if dtype.is_signed():
        return -(2.0 ** (dtype.bitwidth - 1)), 2.0 ** (dtype.bitwidth - 1) - 1
    return 0.0, 2.0**dtype.bitwidth - 1


@leaf
def quantize(
    x: Tensor,
    scale: Tensor,
    zero_point: Tensor | None,
    dtype: int,
    axis: int,
    block_size: int,
    saturate: bool = True,
    precision: torch.dtype = torch.float32,
) -> Tensor:
    """``clip(rint(x / scale) + zero_point)``.

    The gradient of ``rint`` is 1, that of ``clip`` 0 outside of its bounds.

    Args:
        x: Real values, of any shape.
        scale: Real units per code: one, one for each entry of ``axis``, or one for each block.
        zero_point: As ``scale``, or None for 0. Codes of 8-bit floats have none.
        dtype: ONNX type of the codes.
        axis: Axis of the scales, or of the blocks.
        block_size: Entries of a block, 0 if there are none.
        saturate: Whether 8-bit floats have a largest number, or else NaN and infinity beyond.
        precision: Type of the division.

    Returns:
        The codes as float32, of the shape of ``x``.
    """
    kind = ir.DataType(dtype)
    low, high = code_range(kind)
    real = x.to(precision) / _broadcast(scale.to(precision), x, axis, block_size)
    if kind.is_floating_point():
        bounded = real.float().clamp(low, high) if saturate else real.float()
        codes: Tensor = _InFloat8.apply(bounded, TORCH_DTYPES[kind])  # type: ignore[no-untyped-call]  # torch's
        return codes
    codes = round_ste(real).float()
    if zero_point is not None:
        codes = codes + _broadcast(zero_point.float(), x, axis, block_size)
    return codes.clamp(low, high)


class _InFloat8(torch.autograd.Function):
    """The nearest number of an 8-bit float type, with the gradient of the identity."""

    @staticmethod
    def forward(ctx: object, x: Tensor, dtype: torch.dtype) -> Tensor:
        return to_float8(x, dtype, False).to(x.dtype)

    @staticmethod
    def backward(ctx: object, grad: Tensor) -> tuple[Tensor, None]:
        return grad, None


@leaf
def dequantize(
    codes: Tensor,
    scale: Tensor,
    zero_point: Tensor | None,
    axis: int,
    block_size: int,
    dtype: torch.dtype | None = None,
) -> Tensor:
    """``scale * (codes - zero_point)``, computed in float32.

    Args:
        codes: Integers, 8-bit floats, or codes as ``quantize`` gives them.
        scale: As in ``quantize``, and so are the next three.
        zero_point: The code of real 0.
        axis: Axis of the scales.
        block_size: Entries of a block.
        dtype: Type of the result, by default that of the scale.
    """
    dtype = dtype or scale.dtype
    if zero_point is not None:
        exact = torch.float32 if codes.is_floating_point() else torch.int32
        codes = codes.to(exact) - _broadcast(zero_point.to(exact), codes, axis, block_size)
    return (codes.float() * _broadcast(scale.float(), codes, axis, block_size)).to(dtype)


@leaf
def dynamic_quantize(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Codes from 0 to 255 over the range of ``x`` and 0, their scale, and their zero point as float32.

    A tensor of zeros has the scale 1, as in ONNX Runtime.
    """
    low, high = x.amin().clamp(max=0), x.amax().clamp(min=0)
    scale = (high - low) / 255
    scale = torch.where(scale == 0, 1, scale)
    zero_point = round_ste((-low / scale).clamp(0, 255))
    return quantize(x, scale, zero_point, int(ir.DataType.UINT8), 1, 0), scale, zero_point


def _broadcast(numbers: Tensor, x: Tensor, axis: int, block_size: int) -> Tensor:
    """Scales or zero points in a shape that broadcasts to ``x``."""
    if block_size:
        return numbers.repeat_interleave(block_size, axis).narrow(axis, 0, x.shape[axis])
    if numbers.ndim != 1 or x.ndim == 1:
        return numbers
    if len(numbers) == 1:
        return numbers[0]
    return along(numbers, axis, x.ndim)
