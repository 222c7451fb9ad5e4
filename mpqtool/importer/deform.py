"""DeformConv: a convolution that reads its input at computed places."""

from __future__ import annotations

__all__ = ["deform_conv", "import_deform_conv"]

import onnx_ir as ir
import torch
from torch import Tensor

from .broadcast import along
from .registry import leaf, register
from .sampling import sample
from .window import spatial_attributes


@register("DeformConv", 19, 22, learned=("weight", "bias"))
def import_deform_conv(
    node: ir.Node,
    x: Tensor,
    weight: Tensor,
    offset: Tensor,
    bias: Tensor | None = None,
    mask: Tensor | None = None,
    *,
    dilations: tuple[int, ...] | None = None,
    group: int = 1,
    kernel_shape: tuple[int, ...] | None = None,
    offset_group: int = 1,
    pads: tuple[int, ...] | None = None,
    strides: tuple[int, ...] | None = None,
) -> Tensor:
    """Import DeformConv."""
    return deform_conv(x, weight, offset, bias, mask, strides, pads, dilations, group, offset_group)


@leaf
def deform_conv(
    x: Tensor,
    weight: Tensor,
    offset: Tensor,
    bias: Tensor | None,
    mask: Tensor | None,
    strides: tuple[int, ...] | None,
    pads: tuple[int, ...] | None,
    dilations: tuple[int, ...] | None,
    group: int,
    offset_group: int,
) -> Tensor:
    """Convolution whose every read is shifted by ``offset`` and weighted by ``mask``.

    Source: Zhu et al., Deformable ConvNets v2, equation 1.

    Args:
        x: ``(batch, in_channels, *spatial)``.
        weight: ``(out_channels, in_channels / group, *kernel)``.
        offset: ``(batch, offset_group * prod(kernel) * rank, *result)``, in elements.
        bias: ``(out_channels,)`` or None.
        mask: ``(batch, offset_group * prod(kernel), *result)`` or None.
        strides: Or None; so are the next two.
        pads: All begins and then all ends.
        dilations: Of the kernel.
        group: Groups of channels that do not mix.
        offset_group: Groups of channels that share offsets.
    """
    kernel, sizes, result = weight.shape[2:], x.shape[2:], offset.shape[2:]
    rank, batch = len(kernel), x.shape[0]
    stride, pads, dilation = spatial_attributes(rank, strides, pads, dilations, "NOTSET")
    offset = offset.reshape(batch * offset_group, kernel.numel(), rank, *result)
    taps = torch.cartesian_prod(*(torch.arange(size, device=x.device) for size in kernel)).view(-1, rank)
    places = []
    for axis in range(rank):
        start = torch.arange(result[axis], device=x.device) * stride[axis] - pads[axis]
        tap = taps[:, axis] * dilation[axis]
        places.append(along(start, axis, rank) + along(tap, 0, rank + 1) + offset[:, :, axis])
    columns = sample(x.reshape(batch * offset_group, -1, *sizes), places, "linear", "zeros", True)
    columns = columns.view(batch, offset_group, -1, kernel.numel(), *result)
    if mask is not None:
        columns = columns * mask.reshape(batch, offset_group, 1, kernel.numel(), *result)
    columns = columns.reshape(batch, group, weight[0].numel(), -1)
    y = torch.einsum("gok,bgkp->bgop", weight.reshape(group, -1, weight[0].numel()), columns)
    y = y.reshape(batch, -1, *result)
    return y if bias is None else y + along(bias, 1, rank + 2)
