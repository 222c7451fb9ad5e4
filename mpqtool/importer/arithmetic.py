"""Arithmetic of one value and another, element by element."""

from __future__ import annotations

__all__ = [
    "add",
    "divide",
    "import_add",
    "import_div",
    "import_max",
    "import_mean",
    "import_min",
    "import_mod",
    "import_mul",
    "import_pow",
    "import_sub",
    "import_sum",
    "maximum",
    "mean",
    "minimum",
    "modulo",
    "multiply",
    "power",
    "subtract",
    "total",
]

import functools
from collections.abc import Callable
from typing import Any

import numpy as np
import onnx_ir as ir
import torch
from torch import Tensor

from .registry import leaf, register
from .unsigned import as_int64, from_ordered, in_order

# An array added or multiplied is a bias or a gain, and learns; a single number is part of a formula.


@register("Add", 7, 13, 14, learned_arrays=("a", "b"))
def import_add(node: ir.Node, a: Tensor, b: Tensor) -> Tensor:
    """Import Add."""
    return add(a, b)


@register("Sub", 7, 13, 14, learned_arrays=("a", "b"))
def import_sub(node: ir.Node, a: Tensor, b: Tensor) -> Tensor:
    """Import Sub."""
    return subtract(a, b)


@register("Mul", 7, 13, 14, learned_arrays=("a", "b"))
def import_mul(node: ir.Node, a: Tensor, b: Tensor) -> Tensor:
    """Import Mul."""
    return multiply(a, b)


@register("Div", 7, 13, 14, learned_arrays=("a", "b"))
def import_div(node: ir.Node, a: Tensor, b: Tensor) -> Tensor:
    """Import Div."""
    return divide(a, b)


@register("Mod", 10, 13, 28)
def import_mod(node: ir.Node, a: Tensor, b: Tensor, *, fmod: int = 0) -> Tensor:
    """Import Mod; ``fmod`` rounds the quotient toward zero, as C does, and not down, as Python does."""
    return modulo(a, b, bool(fmod))


@register("Pow", 7, 12, 13, 15, known=("exponent",))
def import_pow(node: ir.Node, x: Tensor, exponent: Any) -> Tensor:
    """Import Pow. A constant exponent is a number, as torch squares a hundred times faster so."""
    return power(x, exponent)


@register("Max", 6, 8, 12, 13)
def import_max(node: ir.Node, *xs: Tensor) -> Tensor:
    """Import Max, of any number of values."""
    return maximum(*xs)


@register("Min", 6, 8, 12, 13)
def import_min(node: ir.Node, *xs: Tensor) -> Tensor:
    """Import Min, of any number of values."""
    return minimum(*xs)


@register("Sum", 6, 8, 13, learned_arrays=("xs",))
def import_sum(node: ir.Node, *xs: Tensor) -> Tensor:
    """Import Sum, of any number of values."""
    return total(*xs)


@register("Mean", 6, 8, 13)
def import_mean(node: ir.Node, *xs: Tensor) -> Tensor:
    """Import Mean, of any number of values."""
    return mean(*xs)


@leaf
def add(a: Tensor, b: Tensor) -> Tensor:
    """``a + b``; integers wrap around."""
    return _wrapping(torch.add, a, b)


@leaf
def subtract(a: Tensor, b: Tensor) -> Tensor:
    """``a - b``; integers wrap around."""
    return _wrapping(torch.sub, a, b)


@leaf
def multiply(a: Tensor, b: Tensor) -> Tensor:
    """``a * b``; integers wrap around."""
    return _wrapping(torch.mul, a, b)


def _wrapping(function: Callable[[Tensor, Tensor], Tensor], a: Tensor, b: Tensor) -> Tensor:
    if a.is_floating_point():
        return function(a, b)
    return function(as_int64(a), as_int64(b)).to(a.dtype)


@leaf
def divide(a: Tensor, b: Tensor) -> Tensor:
    """``a / b``, of integers truncated toward zero."""
    if a.is_floating_point():
        return torch.div(a, b)
    if a.dtype == torch.uint64:
        return _quotient(a, b).to(a.dtype)
    return torch.div(as_int64(a), as_int64(b), rounding_mode="trunc").to(a.dtype)


def _quotient(a: Tensor, b: Tensor) -> Tensor:
    """The quotient of two uint64, as the int64 of the same bits (Warren, Hacker's Delight, section 9-3).

    Half of ``a`` fits in int64, so twice its quotient is right or one too small. A divisor of
    ``2**63`` or more is negative as int64, and its quotient 0 or 1.
    """
    n, d = as_int64(a), as_int64(b)
    small = torch.where(d < 0, 1, d)
    half = (n >> 1) & torch.iinfo(torch.int64).max
    quotient = torch.div(half, small, rounding_mode="trunc") << 1
    rest = n - quotient * small  # below 2 * small, so negative only past 2**63, where it exceeds small
    quotient = quotient + ((rest < 0) | (rest >= small))
    return torch.where(d < 0, (in_order(a) >= in_order(b)).long(), quotient)


@leaf
def modulo(a: Tensor, b: Tensor, fmod: bool) -> Tensor:
    """What is left of ``a`` divided by ``b``, with the sign of ``a`` if ``fmod``, else that of ``b``."""
    if a.dtype == torch.uint64:
        return (as_int64(a) - _quotient(a, b) * as_int64(b)).to(a.dtype)
    if fmod:
        return torch.fmod(as_int64(a), as_int64(b)).to(a.dtype)
    rest = torch.remainder(as_int64(a), as_int64(b)).to(a.dtype)
    return torch.copysign(rest, b) if rest.is_floating_point() else rest  # a zero has the sign of b, too


@leaf
def power(x: Tensor, exponent: Any) -> Tensor:
    """``x ** exponent`` in the type of ``x``; the exponent is a tensor, a number, or a tuple of them."""
    if not isinstance(exponent, Tensor):
        if x.is_floating_point() and not isinstance(exponent, tuple):
            return torch.pow(x, exponent)
        exponent = torch.as_tensor(np.array(exponent), device=x.device)
    if exponent.dtype == x.dtype:
        return torch.pow(x, exponent)
    if x.is_floating_point():
        exponent = exponent if exponent.is_floating_point() else exponent.to(x.dtype)
        return torch.pow(x, exponent).to(x.dtype)
    if exponent.is_floating_point():
        return torch.pow(x.double(), exponent.double()).to(x.dtype)
    return torch.pow(x.long(), as_int64(exponent).long()).to(x.dtype)


@leaf
def maximum(*xs: Tensor) -> Tensor:
    """The largest of the values, broadcast."""
    return _extreme(torch.maximum, xs)


@leaf
def minimum(*xs: Tensor) -> Tensor:
    """The smallest of the values, broadcast."""
    return _extreme(torch.minimum, xs)


def _extreme(function: Callable[[Tensor, Tensor], Tensor], xs: tuple[Tensor, ...]) -> Tensor:
    if xs[0].is_floating_point():
        return functools.reduce(function, xs)
    return from_ordered(functools.reduce(function, map(in_order, xs)), xs[0].dtype)


@leaf
def total(*xs: Tensor) -> Tensor:
    """The sum of the values, broadcast."""
    return functools.reduce(torch.add, xs)


@leaf
def mean(*xs: Tensor) -> Tensor:
    """The mean of the values, broadcast."""
    return functools.reduce(torch.add, xs) / len(xs)
