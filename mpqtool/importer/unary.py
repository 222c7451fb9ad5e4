"""Functions of one number, applied to each element; and the determinant of a matrix."""

from __future__ import annotations

__all__ = ["absolute", "determinant", "erf", "import_abs", "import_det", "import_erf", "import_sign", "sign"]

from collections.abc import Callable

import onnx_ir as ir
import torch
from torch import Tensor

from .registry import leaf, register
from .unsigned import as_float64

_UNARY: dict[str, tuple[Callable[[Tensor], Tensor], tuple[int, ...]]] = {
    "Acos": (torch.acos, (7, 22)),
    "Acosh": (torch.acosh, (9, 22)),
    "Asin": (torch.asin, (7, 22)),
    "Asinh": (torch.asinh, (9, 22)),
    "Atan": (torch.atan, (7, 22)),
    "Atanh": (torch.atanh, (9, 22)),
    "Ceil": (torch.ceil, (6, 13)),
    "Cos": (torch.cos, (7, 22)),
    "Cosh": (torch.cosh, (9, 22)),
    "Exp": (torch.exp, (6, 13)),
    "Floor": (torch.floor, (6, 13)),
    "Log": (torch.log, (6, 13)),
    "Neg": (torch.neg, (6, 13)),
    "Reciprocal": (torch.reciprocal, (6, 13)),
    "Round": (torch.round, (11, 22)),  # halves to even, both of them
    "Sin": (torch.sin, (7, 22)),
    "Sinh": (torch.sinh, (9, 22)),
    "Sqrt": (torch.sqrt, (6, 13)),
    "Tan": (torch.tan, (7, 22)),
}


def _register_unary(op_type: str, function: Callable[[Tensor], Tensor], versions: tuple[int, ...]) -> None:
    @register(op_type, *versions)
    def import_unary(node: ir.Node, x: Tensor) -> Tensor:
        return function(x)


for _op_type, (_unary, _versions) in _UNARY.items():
    _register_unary(_op_type, _unary, _versions)


@register("Abs", 6, 13)
def import_abs(node: ir.Node, x: Tensor) -> Tensor:
    """Import Abs."""
    return absolute(x)


@leaf
def absolute(x: Tensor) -> Tensor:
    """``x`` without its sign."""
    return torch.abs(x) if x.dtype.is_signed else x


@register("Sign", 9, 13)
def import_sign(node: ir.Node, x: Tensor) -> Tensor:
    """Import Sign."""
    return sign(x)


@leaf
def sign(x: Tensor) -> Tensor:
    """-1, 0 or 1."""
    return torch.sign(x) if x.dtype.is_signed else (x != 0).to(x.dtype)


@register("Erf", 9, 13)
def import_erf(node: ir.Node, x: Tensor) -> Tensor:
    """Import Erf."""
    return erf(x)


@leaf
def erf(x: Tensor) -> Tensor:
    """The error function, in the type of ``x``."""
    return torch.erf(as_float64(x)).to(x.dtype)


@register("Det", 11, 22)
def import_det(node: ir.Node, x: Tensor) -> Tensor:
    """Import Det."""
    return determinant(x)


@leaf
def determinant(x: Tensor) -> Tensor:
    """The determinant of the matrices of the last two axes."""
    wide = x.float() if x.dtype.itemsize == 2 else x  # torch factorizes no matrix of 16-bit numbers
    return torch.det(wide).to(x.dtype)
