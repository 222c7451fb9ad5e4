"""Conv and ConvTranspose, over one, two and three spatial dimensions."""

from __future__ import annotations

__all__ = ["conv_transpose", "import_conv", "import_conv_transpose", "padded_conv"]

from typing import Any

import onnx_ir as ir
from torch import Tensor
from torch.nn import functional as F

from .registry import leaf, register, unsupported
from .window import torch_pads

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
        UnsupportedOpError: ``auto_pad`` was left in, or the spatial rank is not 1, 2 or 3.
    """
    rank = _spatial_rank(node, kernel_shape)
    _refuse_auto_pad(node, auto_pad)
    pads = pads or (0,) * (2 * rank)
    stride, dilation = strides or (1,) * rank, dilations or (1,) * rank
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
        UnsupportedOpError: ``auto_pad`` or ``output_shape`` is given, or the spatial rank is not 1, 2 or 3.
    """
    rank = _spatial_rank(node, kernel_shape)
    _refuse_auto_pad(node, auto_pad)
    if output_shape is not None:
        raise unsupported(
            node, f"output_shape={list(output_shape)} is given, write it as pads and output_padding"
        )
    pads = pads or (0,) * (2 * rank)
    stride, dilation = strides or (1,) * rank, dilations or (1,) * rank
    return conv_transpose(x, weight, bias, stride, pads, output_padding or (0,) * rank, group, dilation)


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


def _spatial_rank(node: ir.Node, kernel_shape: tuple[int, ...] | None) -> int:
    """Spatial dimensions, by the kernel or the shape of the weight."""
    weight = node.inputs[1]
    shape = weight.shape if weight is not None else None
    if kernel_shape is None and shape is None:
        raise unsupported(node, "the rank of its weight is not known, give it kernel_shape")
    rank = len(kernel_shape) if kernel_shape is not None else len(shape or ()) - 2
    if rank not in _CONV:
        raise unsupported(node, f"its kernel has {rank} dimensions, and 1, 2 and 3 are handled")
    return rank


def _refuse_auto_pad(node: ir.Node, auto_pad: str) -> None:
    if auto_pad not in ("NOTSET", "VALID"):
        raise unsupported(
            node,
            f"auto_pad={auto_pad!r} needs sizes that are not known, give the input fixed height and width",
        )
