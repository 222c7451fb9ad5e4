"""Losses."""

from __future__ import annotations

__all__ = [
    "import_negative_log_likelihood_loss",
    "import_softmax_cross_entropy_loss",
    "negative_log_likelihood",
    "softmax_cross_entropy",
]

import onnx_ir as ir
from torch import Tensor
from torch.nn import functional as F

from .attributes import one_of
from .registry import leaf, parts, register

_REDUCTIONS = ("none", "mean", "sum")
_NO_CLASS = -100  # torch's way to ignore nothing


@register("NegativeLogLikelihoodLoss", 12, 13, 22)
def import_negative_log_likelihood_loss(
    node: ir.Node,
    x: Tensor,
    target: Tensor,
    weight: Tensor | None = None,
    *,
    ignore_index: int | None = None,
    reduction: str = "mean",
) -> Tensor:
    """Import NegativeLogLikelihoodLoss."""
    one_of(node, "reduction", reduction, _REDUCTIONS)
    return negative_log_likelihood(
        x, target, weight, _NO_CLASS if ignore_index is None else ignore_index, reduction
    )


@leaf
def negative_log_likelihood(
    x: Tensor, target: Tensor, weight: Tensor | None, ignore_index: int, reduction: str
) -> Tensor:
    """``-weight[target] * x[target]``; its mean is over the weights.

    Shape:
        x: ``(batch, classes, *spatial)``, logarithms of probabilities.
        target: ``(batch, *spatial)``.
        weight: ``(classes,)``.
    """
    return F.nll_loss(x, target.long(), weight, ignore_index=ignore_index, reduction=reduction)


@register("SoftmaxCrossEntropyLoss", 12, 13)
def import_softmax_cross_entropy_loss(
    node: ir.Node,
    scores: Tensor,
    labels: Tensor,
    weights: Tensor | None = None,
    *,
    ignore_index: int | None = None,
    reduction: str = "mean",
) -> tuple[Tensor, ...]:
    """Import SoftmaxCrossEntropyLoss."""
    one_of(node, "reduction", reduction, _REDUCTIONS)
    results = softmax_cross_entropy(
        scores, labels, weights, _NO_CLASS if ignore_index is None else ignore_index, reduction
    )
    return parts(results, node)


@leaf
def softmax_cross_entropy(
    scores: Tensor, labels: Tensor, weights: Tensor | None, ignore_index: int, reduction: str
) -> tuple[Tensor, Tensor]:
    """The loss of ``negative_log_likelihood`` on the logarithm of the softmax, and that logarithm."""
    logarithm = F.log_softmax(scores, dim=1)
    return negative_log_likelihood(logarithm, labels, weights, ignore_index, reduction), logarithm
