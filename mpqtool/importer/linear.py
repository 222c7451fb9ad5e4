"""Gemm, MatMul and Einsum."""

from __future__ import annotations

__all__ = ["einsum", "gemm", "import_einsum", "import_gemm", "import_matmul", "matmul"]

import onnx_ir as ir
import torch
from torch import Tensor
from torch.nn import functional as F

from .registry import leaf, register
from .unsigned import as_int64


@register("Gemm", 7, 9, 11, 13, learned=("x", "weight", "bias"))
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
    result = torch.matmul(as_int64(a.T if transpose_a else a), as_int64(b.T if transpose_b else b))
    result = result if alpha == 1 else alpha * result
    if c is not None:
        result = result + (as_int64(c) if beta == 1 else beta * as_int64(c))
    return result.to(a.dtype)


@register("MatMul", 1, 9, 13, learned=("a", "b"))
def import_matmul(node: ir.Node, a: Tensor, b: Tensor) -> Tensor:
    """Import MatMul, of any rank."""
    return matmul(a, b)


@leaf
def matmul(a: Tensor, b: Tensor) -> Tensor:
    """Matrix product."""
    return torch.matmul(as_int64(a), as_int64(b)).to(a.dtype)


@register("Einsum", 12, 28, learned_arrays=("xs",))
def import_einsum(node: ir.Node, *xs: Tensor, equation: str) -> Tensor:
    """Import Einsum."""
    return einsum(equation, *xs)


@leaf
def einsum(equation: str, *xs: Tensor) -> Tensor:
    """Einstein summation; ONNX and torch write and read the equation alike."""
    return torch.einsum(equation, *map(as_int64, xs)).to(xs[0].dtype)
