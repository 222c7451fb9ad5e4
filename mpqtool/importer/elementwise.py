"""Arithmetic of one value and another, element by element."""

from __future__ import annotations

__all__ = ["import_cast", "import_maximum", "import_minimum", "maximum", "minimum"]

import functools
from collections.abc import Callable

import onnx_ir as ir
import torch
from torch import Tensor

from .registry import leaf, register, unsupported

_UNARY: dict[str, tuple[Callable[[Tensor], Tensor], tuple[int, ...]]] = {
    "Abs": (torch.abs, (6, 13)),
    "Erf": (torch.erf, (9, 13)),
    "Exp": (torch.exp, (6, 13)),
    "Log": (torch.log, (6, 13)),
    "Neg": (torch.neg, (6, 13)),
    "Sqrt": (torch.sqrt, (6, 13)),
}
_BINARY: dict[str, tuple[Callable[[Tensor, Tensor], Tensor], tuple[int, ...]]] = {
    "Add": (torch.add, (7, 13, 14)),
    "Div": (torch.div, (7, 13, 14)),
    "Mul": (torch.mul, (7, 13, 14)),
    "Sub": (torch.sub, (7, 13, 14)),
}
_DTYPE = {
    ir.DataType.BFLOAT16: torch.bfloat16,
    ir.DataType.BOOL: torch.bool,
    ir.DataType.DOUBLE: torch.float64,
    ir.DataType.FLOAT16: torch.float16,
    ir.DataType.FLOAT: torch.float32,
    ir.DataType.INT32: torch.int32,
    ir.DataType.INT64: torch.int64,
}


def _register_unary(op_type: str, function: Callable[[Tensor], Tensor], versions: tuple[int, ...]) -> None:
    @register(op_type, *versions)
    def import_unary(node: ir.Node, x: Tensor) -> Tensor:
        return function(x)


def _register_binary(
    op_type: str, function: Callable[[Tensor, Tensor], Tensor], versions: tuple[int, ...]
) -> None:
    # An array added or multiplied is a bias or a gain, and learns; a single number is part of a formula.
    @register(op_type, *versions, learned_arrays=("a", "b"))
    def import_binary(node: ir.Node, a: Tensor, b: Tensor) -> Tensor:
        return function(a, b)


for _op_type, (_unary, _versions) in _UNARY.items():
    _register_unary(_op_type, _unary, _versions)
for _op_type, (_binary, _versions) in _BINARY.items():
    _register_binary(_op_type, _binary, _versions)


@register("Pow", 7, 12, 13, 15)
def import_pow(node: ir.Node, x: Tensor, exponent: Tensor) -> Tensor:
    """Import Pow."""
    return torch.pow(x, exponent)


@register("Max", 8, 12, 13)
def import_maximum(node: ir.Node, *xs: Tensor) -> Tensor:
    """Import Max, of any number of values."""
    return maximum(*xs)


@leaf
def maximum(*xs: Tensor) -> Tensor:
    """The largest of the values, broadcast."""
    return functools.reduce(torch.maximum, xs)


@register("Min", 8, 12, 13)
def import_minimum(node: ir.Node, *xs: Tensor) -> Tensor:
    """Import Min, of any number of values."""
    return minimum(*xs)


@leaf
def minimum(*xs: Tensor) -> Tensor:
    """The smallest of the values, broadcast."""
    return functools.reduce(torch.minimum, xs)


@register("Cast", 6, 9, 13, 19, 21, 23, 24, 25)
def import_cast(node: ir.Node, x: Tensor, *, to: int, saturate: int = 1, round_mode: str = "up") -> Tensor:
    """Import Cast; ``saturate`` and ``round_mode`` matter to 8-bit floats alone, which are not handled."""
    target = ir.DataType(to)
    if target not in _DTYPE:
        raise unsupported(node, f"to={target.name}, and handled are {', '.join(t.name for t in _DTYPE)}")
    return x.to(_DTYPE[target])
