"""Operators that normalize: over the batch, a sample, a group of channels, or the last axes."""

from __future__ import annotations

__all__ = [
    "BatchNorm",
    "batch_norm_of_batch",
    "group_norm",
    "import_batch_normalization",
    "import_batch_normalization_7",
    "import_group_normalization",
    "import_instance_normalization",
    "import_layer_normalization",
    "import_lp_normalization",
    "import_mean_variance_normalization",
    "import_rms_normalization",
    "instance_norm",
    "layer_norm",
    "layer_norm_with_statistics",
    "lp_norm",
    "mean_variance_norm",
    "rms_norm",
]

from typing import Any

import onnx_ir as ir
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .dtypes import TORCH_DTYPES
from .registry import leaf, parts, register, unsupported


class BatchNorm(nn.Module):
    """Normalize each channel: with the batch's statistics in training mode, with the stored ones otherwise.

    In training mode the stored ones, buffers of the graph, follow the batch's.

    Args:
        eps: Added to the variance.
        momentum: Weight of the new statistics, as in torch: 1 - ONNX's.

    Shape:
        ``x``: ``(batch, channels, *)``, the others ``(channels,)``; output as ``x``.
    """

    def __init__(self, *, eps: float, momentum: float) -> None:
        super().__init__()
        self.eps, self.momentum = eps, momentum

    def forward(self, x: Tensor, scale: Tensor, bias: Tensor, mean: Tensor, variance: Tensor) -> Tensor:
        return F.batch_norm(x, mean, variance, scale, bias, self.training, self.momentum, self.eps)

    def extra_repr(self) -> str:
        return f"eps={self.eps:g}, momentum={self.momentum:g}"


@register("BatchNormalization", 14, 15, learned=("scale", "bias"))
def import_batch_normalization(
    node: ir.Node,
    x: Tensor,
    scale: Tensor,
    bias: Tensor,
    mean: Tensor,
    variance: Tensor,
    *,
    epsilon: float = 1e-5,
    momentum: float = 0.9,
    training_mode: int = 0,
) -> Any:
    """Import BatchNormalization; with ``training_mode`` the file asks for the batch's statistics always."""
    if training_mode:
        return parts(batch_norm_of_batch(x, scale, bias, mean, variance, epsilon, 1 - momentum), node)
    return BatchNorm(eps=epsilon, momentum=1 - momentum)


@register("BatchNormalization", 7, 9, learned=("scale", "bias"))
def import_batch_normalization_7(
    node: ir.Node,
    x: Tensor,
    scale: Tensor,
    bias: Tensor,
    mean: Tensor,
    variance: Tensor,
    *,
    epsilon: float = 1e-5,
    momentum: float = 0.9,
    spatial: int = 1,
) -> Any:
    """Import BatchNormalization as it was before opset 14: more than one output means training mode.

    Raises:
        UnsupportedOpError: Statistics of each pixel.
    """
    if not spatial:
        raise unsupported(
            node, "spatial=0 is not handled, spatial=1 is. Export the model at opset 9 or later"
        )
    training = any(output.name for output in node.outputs[1:])
    return import_batch_normalization(
        node, x, scale, bias, mean, variance, epsilon=epsilon, momentum=momentum, training_mode=int(training)
    )


@leaf
def batch_norm_of_batch(
    x: Tensor, scale: Tensor, bias: Tensor, mean: Tensor, variance: Tensor, eps: float, momentum: float
) -> tuple[Tensor, ...]:
    """Normalize with the batch's statistics.

    Returns:
        The output, the running mean and variance, the mean and variance of the batch. Unlike torch's,
        the variance is that of the population.
    """
    # not F.batch_norm, which refuses one value for each channel
    y = torch.batch_norm(x, scale, bias, None, None, True, 0.0, eps, torch.backends.cudnn.enabled)
    axes = [axis for axis in range(x.ndim) if axis != 1]
    wide = x.to(torch.promote_types(x.dtype, torch.float32))
    batch_variance, batch_mean = torch.var_mean(wide, axes, correction=0)
    running_mean = torch.lerp(mean.to(wide), batch_mean, momentum)
    running_variance = torch.lerp(variance.to(wide), batch_variance, momentum)
    return (
        y,
        running_mean.to(mean),
        running_variance.to(variance),
        batch_mean.to(mean),
        batch_variance.to(variance),
    )


@register("InstanceNormalization", 6, 22, learned=("scale", "bias"))
def import_instance_normalization(
    node: ir.Node, x: Tensor, scale: Tensor, bias: Tensor, *, epsilon: float = 1e-5
) -> Tensor:
    """Import InstanceNormalization."""
    return instance_norm(x, scale, bias, epsilon)


@leaf
def instance_norm(x: Tensor, scale: Tensor, bias: Tensor, eps: float) -> Tensor:
    """Normalize each channel of each sample."""
    # not F.instance_norm, which refuses one value for each channel
    return torch.instance_norm(x, scale, bias, None, None, True, 0.0, eps, torch.backends.cudnn.enabled)


@register("LayerNormalization", 17, learned=("scale", "bias"))
def import_layer_normalization(
    node: ir.Node,
    x: Tensor,
    scale: Tensor,
    bias: Tensor | None = None,
    *,
    axis: int = -1,
    epsilon: float = 1e-5,
    stash_type: int = 1,
) -> Any:
    """Import LayerNormalization; the statistics are computed only if the node gives them."""
    stash = TORCH_DTYPES[ir.DataType(stash_type)]
    if any(output.name for output in node.outputs[1:]):
        return parts(layer_norm_with_statistics(x, scale, bias, axis, epsilon, stash), node)
    return layer_norm(x, scale, bias, axis, epsilon, stash)


@leaf
def layer_norm(
    x: Tensor, scale: Tensor, bias: Tensor | None, axis: int, eps: float, stash: torch.dtype
) -> Tensor:
    """Normalize over ``axis`` and all axes after it, in the type ``stash`` or a wider one of ``x``.

    Shape:
        ``x``: any; ``scale`` and ``bias``: broadcast to ``x``; output as ``x``.
    """
    shape = x.shape[axis:]
    wide = torch.promote_types(x.dtype, stash)
    if x.dtype == wide and scale.shape == shape and (bias is None or bias.shape == shape):
        return F.layer_norm(x, shape, scale, bias, eps)
    y = F.layer_norm(x.to(wide), shape, eps=eps).to(x.dtype) * scale
    return y if bias is None else y + bias


@leaf
def layer_norm_with_statistics(
    x: Tensor, scale: Tensor, bias: Tensor | None, axis: int, eps: float, stash: torch.dtype
) -> tuple[Tensor, Tensor, Tensor]:
    """The same, and the mean and ``1 / sqrt(variance + eps)``, of type ``stash``, their axes kept."""
    axes = tuple(range(axis % x.ndim, x.ndim))
    wide = x.to(torch.promote_types(x.dtype, stash))
    variance, mean = torch.var_mean(wide, axes, correction=0, keepdim=True)
    inverse = torch.rsqrt(variance + eps)
    return layer_norm(x, scale, bias, axis, eps, stash), mean.to(stash), inverse.to(stash)


@register("GroupNormalization", 18, 21, learned=("scale", "bias"))
def import_group_normalization(
    node: ir.Node,
    x: Tensor,
    scale: Tensor,
    bias: Tensor,
    *,
    num_groups: int,
    epsilon: float = 1e-5,
    stash_type: int = 1,
) -> Tensor:
    """Import GroupNormalization; torch computes in float32 or wider, as every ``stash_type`` allows."""
    return group_norm(x, scale, bias, num_groups, epsilon)


@leaf
def group_norm(x: Tensor, scale: Tensor, bias: Tensor, groups: int, eps: float) -> Tensor:
    """Normalize each group of channels; ``scale`` and ``bias`` per channel, or per group as in opset 18."""
    channels = x.shape[1]
    if len(scale) != channels:
        scale = scale.repeat_interleave(channels // groups)
        bias = bias.repeat_interleave(channels // groups)
    return F.group_norm(x, groups, scale, bias, eps)


@register("RMSNormalization", 23, learned=("scale",))
def import_rms_normalization(
    node: ir.Node,
    x: Tensor,
    scale: Tensor,
    *,
    axis: int = -1,
    epsilon: float = 1e-5,
    stash_type: int = 1,
) -> Tensor:
    """Import RMSNormalization."""
    return rms_norm(x, scale, axis, epsilon, TORCH_DTYPES[ir.DataType(stash_type)])


@leaf
def rms_norm(x: Tensor, scale: Tensor, axis: int, eps: float, stash: torch.dtype) -> Tensor:
    """``x / sqrt(mean(x**2) + eps) * scale`` over ``axis`` and all after it, in the type of ``scale``."""
    shape = x.shape[axis:]
    wide = torch.promote_types(x.dtype, stash)
    if x.dtype == scale.dtype == wide and scale.shape == shape:
        return F.rms_norm(x, shape, scale, eps)
    return F.rms_norm(x.to(wide), shape, eps=eps).to(x.dtype).to(scale.dtype) * scale


@register("LpNormalization", 1, 22)
def import_lp_normalization(node: ir.Node, x: Tensor, *, axis: int = -1, p: int = 2) -> Tensor:
    """Import LpNormalization."""
    return lp_norm(x, axis, p)


@leaf
def lp_norm(x: Tensor, axis: int, p: int) -> Tensor:
    """``x`` by its norm along ``axis``; 0 where that is 0."""
    norm: Tensor = torch.linalg.vector_norm(x, p, axis, keepdim=True)
    return x / norm.masked_fill(norm == 0, 1)


@register("MeanVarianceNormalization", 9, 13)
def import_mean_variance_normalization(
    node: ir.Node, x: Tensor, *, axes: tuple[int, ...] = (0, 2, 3)
) -> Tensor:
    """Import MeanVarianceNormalization."""
    return mean_variance_norm(x, axes)


@leaf
def mean_variance_norm(x: Tensor, axes: tuple[int, ...]) -> Tensor:
    """``(x - mean) / (deviation + 1e-9)`` over the axes."""
    deviation, mean = torch.std_mean(x, axes, correction=0, keepdim=True)
    y: Tensor = (x - mean) / (deviation + 1e-9)
    return y
