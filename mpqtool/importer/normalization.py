"""BatchNormalization: the one operator with a state."""

from __future__ import annotations

__all__ = ["BatchNorm", "import_batch_normalization"]

import onnx_ir as ir
from torch import Tensor, nn
from torch.nn import functional as F

from .registry import register, unsupported


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


@register("BatchNormalization", 9, 14, 15, learned=("scale", "bias"))
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
) -> nn.Module:
    """Import BatchNormalization.

    Raises:
        UnsupportedOpError: The file asks for the batch's statistics at inference.
    """
    if training_mode:
        raise unsupported(node, "training_mode=1, export the model in evaluation mode")
    return BatchNorm(eps=epsilon, momentum=1 - momentum)
