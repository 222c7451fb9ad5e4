"""Operators on codes: convolutions and products of integers, and the ones that requantize the result.

Torch has few integer kernels. Sums of products of 8-bit codes are exact in float64 up to 2**53, far
beyond the int32 of ONNX, so that is what they are computed in.
"""

from __future__ import annotations

__all__ = [
    "Attributes",
    "conv_integer",
    "import_conv_integer",
    "import_matmul_integer",
    "import_qlinear_conv",
    "import_qlinear_matmul",
    "matmul_integer",
    "qlinear_conv",
    "qlinear_matmul",
    "requantize",
]

import onnx_ir as ir
import torch
from torch import Tensor

from mpqtool.quantizers.rounding import round_ste

from .broadcast import along
from .codes import code_range
from .conv import any_conv
from .registry import leaf, register, unsupported
from .window import check_auto_pad

Attributes = tuple[tuple[int, ...] | None, tuple[int, ...] | None, tuple[int, ...] | None, int, str]
"""Strides, pads, dilations, group and auto_pad, as ``any_conv`` takes them."""


@register("ConvInteger", 10)
def import_conv_integer(
    node: ir.Node,
    x: Tensor,
    weight: Tensor,
    x_zero_point: Tensor | None = None,
    w_zero_point: Tensor | None = None,
    *,
    auto_pad: str = "NOTSET",
    dilations: tuple[int, ...] | None = None,
    group: int = 1,
    kernel_shape: tuple[int, ...] | None = None,
    pads: tuple[int, ...] | None = None,
    strides: tuple[int, ...] | None = None,
) -> Tensor:
    """Import ConvInteger; the kernel is as large as its weight."""
    attributes = (strides, pads, dilations, group, check_auto_pad(node, auto_pad))
    return conv_integer(x, weight, x_zero_point, w_zero_point, attributes)


@leaf
def conv_integer(
    x: Tensor, weight: Tensor, x_zero: Tensor | None, w_zero: Tensor | None, attributes: Attributes
) -> Tensor:
    """Convolution of codes less their zero points, in int32."""
    return _int32(_convolve(x, weight, x_zero, w_zero, None, attributes))


@register("QLinearConv", 10)
def import_qlinear_conv(
    node: ir.Node,
    x: Tensor,
    x_scale: Tensor,
    x_zero_point: Tensor,
    weight: Tensor,
    w_scale: Tensor,
    w_zero_point: Tensor,
    y_scale: Tensor,
    y_zero_point: Tensor,
    bias: Tensor | None = None,
    *,
    auto_pad: str = "NOTSET",
    dilations: tuple[int, ...] | None = None,
    group: int = 1,
    kernel_shape: tuple[int, ...] | None = None,
    pads: tuple[int, ...] | None = None,
    strides: tuple[int, ...] | None = None,
) -> Tensor:
    """Import QLinearConv; its codes are carried as those of QuantizeLinear are."""
    return qlinear_conv(
        x,
        x_scale,
        x_zero_point,
        weight,
        w_scale,
        w_zero_point,
        y_scale,
        y_zero_point,
        bias,
        (strides, pads, dilations, group, check_auto_pad(node, auto_pad)),
        _output_range(node),
    )


@leaf
def qlinear_conv(
    x: Tensor,
    x_scale: Tensor,
    x_zero: Tensor,
    weight: Tensor,
    w_scale: Tensor,
    w_zero: Tensor,
    y_scale: Tensor,
    y_zero: Tensor,
    bias: Tensor | None,
    attributes: Attributes,
    bounds: tuple[float, float],
) -> Tensor:
    """Convolution of codes, requantized channel by channel; ``bias`` has the scale ``x_scale * w_scale``."""
    total = _convolve(x, weight, x_zero, w_zero, bias, attributes)
    scale = along(w_scale, 1, x.ndim) if w_scale.ndim else w_scale
    return requantize(total, x_scale, scale, y_scale, y_zero, bounds)


@register("MatMulInteger", 10)
def import_matmul_integer(
    node: ir.Node,
    a: Tensor,
    b: Tensor,
    a_zero_point: Tensor | None = None,
    b_zero_point: Tensor | None = None,
) -> Tensor:
    """Import MatMulInteger."""
    return matmul_integer(a, b, a_zero_point, b_zero_point)


@leaf
def matmul_integer(a: Tensor, b: Tensor, a_zero: Tensor | None, b_zero: Tensor | None) -> Tensor:
    """Product of codes less their zero points, in int32; ``a`` may have one for each row."""
    rows = None if a_zero is None else _per_row(a_zero)
    return _int32(_centered(a, rows) @ _centered(b, b_zero))


@register("QLinearMatMul", 10, 21)
def import_qlinear_matmul(
    node: ir.Node,
    a: Tensor,
    a_scale: Tensor,
    a_zero_point: Tensor,
    b: Tensor,
    b_scale: Tensor,
    b_zero_point: Tensor,
    y_scale: Tensor,
    y_zero_point: Tensor,
) -> Tensor:
    """Import QLinearMatMul; its codes are carried as those of QuantizeLinear are."""
    return qlinear_matmul(
        a, a_scale, a_zero_point, b, b_scale, b_zero_point, y_scale, y_zero_point, _output_range(node)
    )


@leaf
def qlinear_matmul(
    a: Tensor,
    a_scale: Tensor,
    a_zero: Tensor,
    b: Tensor,
    b_scale: Tensor,
    b_zero: Tensor,
    y_scale: Tensor,
    y_zero: Tensor,
    bounds: tuple[float, float],
) -> Tensor:
    """Product of codes, requantized; ``a`` and the result may have one scale for each row.

    ``b`` may have one for each column.
    """
    total = _centered(a, _per_row(a_zero)) @ _centered(b, b_zero)
    return requantize(total, _per_row(a_scale), b_scale, _per_row(y_scale), _per_row(y_zero), bounds)


def requantize(
    total: Tensor,
    x_scale: Tensor,
    w_scale: Tensor,
    y_scale: Tensor,
    y_zero: Tensor,
    bounds: tuple[float, float],
) -> Tensor:
    """``clip(rint(float32(total) * multiplier) + y_zero)``, as ``mpqtool.passes.arithmetic`` defines it.

    ``multiplier = (x_scale * w_scale) / y_scale``, all in float32. The gradient of ``rint`` is 1.
    """
    multiplier = x_scale.float() * w_scale.float() / y_scale.float()
    return (round_ste(total.float() * multiplier) + y_zero.float()).clamp(*bounds)


def _convolve(
    x: Tensor,
    weight: Tensor,
    x_zero: Tensor | None,
    w_zero: Tensor | None,
    bias: Tensor | None,
    attributes: Attributes,
) -> Tensor:
    if w_zero is not None and w_zero.ndim:
        w_zero = along(w_zero, 0, weight.ndim)
    bias = None if bias is None else bias.double()
    return any_conv(_centered(x, x_zero), _centered(weight, w_zero), bias, *attributes)


def _centered(codes: Tensor, zero_point: Tensor | None) -> Tensor:
    """The codes less their zero point, in float64."""
    return codes.double() if zero_point is None else codes.double() - zero_point.double()


def _per_row(numbers: Tensor) -> Tensor:
    """A vector, of one number for each row, as a column."""
    return numbers.unsqueeze(-1) if numbers.ndim == 1 else numbers


def _int32(total: Tensor) -> Tensor:
    return total.to(torch.int64).to(torch.int32)  # what does not fit wraps around


def _output_range(node: ir.Node) -> tuple[float, float]:
    """Bounds of the output codes, by the type of their zero point."""
    zero = node.inputs[7]
    dtype = (zero.dtype if zero is not None else None) or node.outputs[0].dtype
    if dtype not in (ir.DataType.INT8, ir.DataType.UINT8):
        found = "not known" if dtype is None else dtype.name
        raise unsupported(
            node, f"the type of its codes is {found}, allowed are INT8 and UINT8. Export the model again"
        )
    return code_range(dtype)
