"""Conv and ConvTranspose, over one, two and three spatial dimensions."""

from __future__ import annotations

__all__ = [
    "any_conv",
    "any_conv_transpose",
    "conv_transpose",
    "conv_window",
    "import_conv",
    "import_conv_transpose",
    "padded_conv",
]

from typing import Any

import onnx_ir as ir
from torch import Tensor
from torch.nn import functional as F

from .broadcast import along
from .registry import leaf, register, unsupported
from .window import SAME, check_auto_pad, same_pads, spatial_attributes, split_pads, torch_pads

_CONV: dict[int, Any] = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}
_TRANSPOSED: dict[int, Any] = {1: F.conv_transpose1d, 2: F.conv_transpose2d, 3: F.conv_transpose3d}


@register("Conv", 1, 11, 22, learned=("weight", "bias"))
def import_conv(
    node: ir.Node,
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    *,
    auto_pad: str = "NOTSET",
    dilations: tuple[int, ...] | None = None,
    group: int = 1,
    kernel_shape: tuple[int, ...] | None = None,
    pads: tuple[int, ...] | None = None,
    strides: tuple[int, ...] | None = None,
) -> Tensor:
    """Import Conv. Keyword parameters and defaults are the attributes of the ONNX schema.

    Args:
        node: The node.
        x: ``(batch, in_channels, *spatial)``.
        weight: ``(out_channels, in_channels / group, *kernel)``.
        bias: ``(out_channels,)`` or None.

    Raises:
        UnsupportedOpError: The spatial rank is not 1, 2 or 3, or there is no such ``auto_pad``.
    """
    rank, auto_pad = _spatial_rank(node, kernel_shape), check_auto_pad(node, auto_pad)
    if rank is None or auto_pad in SAME:
        return any_conv(x, weight, bias, strides, pads, dilations, group, auto_pad)
    stride, pads, dilation = spatial_attributes(rank, strides, pads, dilations, auto_pad)
    if pads[:rank] == pads[rank:]:
        return _CONV[rank](x, weight, bias, stride, pads[:rank], dilation, group)  # type: ignore[no-any-return]
    return padded_conv(x, weight, bias, stride, pads, dilation, group)


@leaf
def padded_conv(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    stride: tuple[int, ...],
    pads: tuple[int, ...],
    dilation: tuple[int, ...],
    group: int,
) -> Tensor:
    """Convolution with padding that differs between begin and end, which torch's own does not take."""
    rank = len(stride)
    x = F.pad(x, torch_pads(pads))
    return _CONV[rank](x, weight, bias, stride, 0, dilation, group)  # type: ignore[no-any-return]


@leaf
def any_conv(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    strides: tuple[int, ...] | None,
    pads: tuple[int, ...] | None,
    dilations: tuple[int, ...] | None,
    group: int,
    auto_pad: str,
) -> Tensor:
    """Convolution whose rank or padding is known only now."""
    stride, pads, dilation = conv_window(x, weight, strides, pads, dilations, auto_pad)
    return padded_conv(x, weight, bias, stride, pads, dilation, group)


def conv_window(
    x: Tensor,
    weight: Tensor,
    strides: tuple[int, ...] | None,
    pads: tuple[int, ...] | None,
    dilations: tuple[int, ...] | None,
    auto_pad: str,
) -> tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]:
    """Strides, pads and dilations of a convolution, for the real size of its input."""
    kernel = weight.shape[2:]
    stride, pads, dilation = spatial_attributes(len(kernel), strides, pads, dilations, auto_pad)
    if auto_pad in SAME:
        pads = same_pads(x.shape[2:], kernel, stride, dilation, auto_pad)
    return stride, pads, dilation


@register("ConvTranspose", 1, 11, 22, learned=("weight", "bias"))
def import_conv_transpose(
    node: ir.Node,
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    *,
    auto_pad: str = "NOTSET",
    dilations: tuple[int, ...] | None = None,
    group: int = 1,
    kernel_shape: tuple[int, ...] | None = None,
    output_padding: tuple[int, ...] | None = None,
    output_shape: tuple[int, ...] | None = None,
    pads: tuple[int, ...] | None = None,
    strides: tuple[int, ...] | None = None,
) -> Tensor:
    """Import ConvTranspose; ``weight`` is ``(in_channels, out_channels / group, *kernel)``.

    Raises:
        UnsupportedOpError: The spatial rank is not 1, 2 or 3, or there is no such ``auto_pad``.
    """
    rank, auto_pad = _spatial_rank(node, kernel_shape), check_auto_pad(node, auto_pad)
    if rank is None or output_shape is not None or auto_pad in SAME:
        return any_conv_transpose(
            x, weight, bias, strides, pads, output_padding, group, dilations, output_shape, auto_pad
        )
    stride, pads, dilation = spatial_attributes(rank, strides, pads, dilations, auto_pad)
    output_padding = output_padding or (0,) * rank
    if pads[:rank] == pads[rank:]:
        arguments = (x, weight, bias, stride, pads[:rank], output_padding, group, dilation)
        return _TRANSPOSED[rank](*arguments)  # type: ignore[no-any-return]
    return conv_transpose(x, weight, bias, stride, pads, output_padding, group, dilation)


@leaf
def conv_transpose(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    stride: tuple[int, ...],
    pads: tuple[int, ...],
    output_padding: tuple[int, ...],
    group: int,
    dilation: tuple[int, ...],
) -> Tensor:
    """Transposed convolution; where begin and end differ, the longer end is cut off the result."""
    rank = len(stride)
    common = tuple(min(begin, end) for begin, end in zip(pads[:rank], pads[rank:], strict=True))
    y: Tensor = _TRANSPOSED[rank](x, weight, bias, stride, common, output_padding, group, dilation)
    for axis, least in enumerate(common, start=2):
        begin, end = pads[axis - 2] - least, pads[rank + axis - 2] - least
        y = y.narrow(axis, begin, y.shape[axis] - begin - end)
    return y


@leaf
def any_conv_transpose(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    strides: tuple[int, ...] | None,
    pads: tuple[int, ...] | None,
    output_padding: tuple[int, ...] | None,
    group: int,
    dilations: tuple[int, ...] | None,
    output_shape: tuple[int, ...] | None,
    auto_pad: str,
) -> Tensor:
    """Transposed convolution whose rank is known only now, or whose pads make up an output shape.

    ``total = stride * (size - 1) + output_padding + (kernel - 1) * dilation + 1 - output_size``; SAME asks
    for ``output_size = size * stride``. The odd one goes to the end for SAME_UPPER, else to the beginning.
    A result that is too small (negative total) is continued at the end by the bias, as in ONNX Runtime.
    """
    kernel = weight.shape[2:]
    rank = len(kernel)
    stride, pads, dilation = spatial_attributes(rank, strides, pads, dilations, auto_pad)
    output_padding = output_padding or (0,) * rank
    missing = [0] * rank
    if output_shape is not None or auto_pad in SAME:
        wanted = output_shape or tuple(size * step for size, step in zip(x.shape[2:], stride, strict=True))
        totals = [
            stride[i] * (x.shape[2 + i] - 1)
            + output_padding[i]
            + (kernel[i] - 1) * dilation[i]
            + 1
            - wanted[i]
            for i in range(rank)
        ]
        missing = [max(-total, 0) for total in totals] if output_shape else missing
        pads = split_pads([max(total, 0) for total in totals], auto_pad)
    if not any(missing):
        return conv_transpose(x, weight, bias, stride, pads, output_padding, group, dilation)
    y = conv_transpose(x, weight, None, stride, pads, output_padding, group, dilation)
    y = F.pad(y, torch_pads((*[0] * rank, *missing)))
    return y if bias is None else y + along(bias, 1, rank + 2)


def _spatial_rank(node: ir.Node, kernel_shape: tuple[int, ...] | None) -> int | None:
    """Spatial dimensions, by the kernel or a shape in the file; None if it says nothing."""
    if kernel_shape is not None:
        rank = len(kernel_shape)
    else:
        shapes = [value.shape for value in node.inputs[:2] if value is not None and value.shape is not None]
        if not shapes:
            return None
        rank = len(shapes[-1]) - 2
    if rank not in _CONV:
        raise unsupported(
            node, f"its kernel has {rank} dimensions, allowed are 1, 2 and 3. Cut this part off the model"
        )
    return rank
