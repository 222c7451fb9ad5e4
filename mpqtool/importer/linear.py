"""Gemm and MatMul."""

from __future__ import annotations

__all__ = ["gemm", "import_gemm", "import_matmul"]

import onnx_ir as ir
import torch
from torch import Tensor
from torch.nn import functional as F

from .registry import leaf, register


@register("Gemm", 7, 9, 11, 13, learned=("weight", "bias"))
def import_gemm(
    node: ir.Node,
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    *,
    alpha: float = 1.0,
    beta: float = 1.0,
    transA: int = 0,  # noqa: N803  the schema's name
    transB: int = 0,  # noqa: N803
) -> Tensor:
    """Import Gemm; in the normal form, ``weight`` of shape ``(out, in)``, it is ``F.linear``."""
    if alpha == 1 and (beta == 1 or bias is None) and transB and not transA:
        return F.linear(x, weight, bias)
    return gemm(x, weight, bias, alpha, beta, bool(transA), bool(transB))


@leaf
def gemm(
    a: Tensor, b: Tensor, c: Tensor | None, alpha: float, beta: float, transpose_a: bool, transpose_b: bool
) -> Tensor:
    """``alpha * A' @ B' + beta * C``."""
    product = alpha * ((a.T if transpose_a else a) @ (b.T if transpose_b else b))
    return product if c is None else product + beta * c


@register("MatMul", 1, 9, 13, learned=("a", "b"))
def import_matmul(node: ir.Node, a: Tensor, b: Tensor) -> Tensor:
    """Import MatMul, of any rank."""
    return torch.matmul(a, b)
