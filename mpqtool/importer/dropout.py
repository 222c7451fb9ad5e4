"""Dropout: nothing at inference, unless the file asks for it."""

from __future__ import annotations

__all__ = [
    "all_kept",
    "dropout",
    "import_dropout",
    "import_dropout_7",
    "import_dropout_10",
]

from typing import Any

import onnx_ir as ir
import torch
from torch import Tensor

from .attributes import single
from .registry import leaf, register


@register("Dropout", 12, 13, 22, known=("ratio", "training_mode"))
def import_dropout(
    node: ir.Node,
    x: Tensor,
    ratio: Any | None = None,
    training_mode: Any | None = None,
    *,
    seed: int | None = None,
) -> tuple[Tensor, ...]:
    """Import Dropout. Torch's generator draws the mask, so a ``seed`` changes nothing."""
    ratio, training_mode = single(ratio), single(training_mode)
    if training_mode is None or training_mode is False:
        return _kept(node, x, torch.bool)
    results = dropout(x, 0.5 if ratio is None else ratio, training_mode)
    return results[0], results[1]


@register("Dropout", 10)
def import_dropout_10(node: ir.Node, x: Tensor, *, ratio: float = 0.5) -> tuple[Tensor, ...]:
    """Import Dropout of before opset 12, which is for inference alone."""
    return _kept(node, x, torch.bool)


@register("Dropout", 7)
def import_dropout_7(node: ir.Node, x: Tensor, *, ratio: float = 0.5) -> tuple[Tensor, ...]:
    """Import Dropout of before opset 10: the mask has the type of the input."""
    return _kept(node, x, None)


def _kept(node: ir.Node, x: Tensor, dtype: torch.dtype | None) -> tuple[Tensor, ...]:
    wants_mask = any(mask.uses() or mask.is_graph_output() for mask in node.outputs[1:])
    return (x, all_kept(x, dtype)) if wants_mask else (x,)


@leaf
def all_kept(x: Tensor, dtype: torch.dtype | None) -> Tensor:
    """The mask of a dropout that drops nothing."""
    return torch.ones_like(x, dtype=dtype)


@leaf
def dropout(x: Tensor, ratio: Tensor | float, training_mode: Tensor | bool) -> tuple[Tensor, Tensor]:
    """``x * mask / (1 - ratio)``, and the mask, which is false with probability ``ratio``."""
    share = float(ratio) if training_mode else 0.0
    if share == 0:
        return x, torch.ones_like(x, dtype=torch.bool)
    mask = torch.rand_like(x) >= share
    return x * mask / (1 - share), mask
