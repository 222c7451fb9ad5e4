"""Operators on the bits of integers, and the bits of one type taken for another type's."""

from __future__ import annotations

__all__ = [
    "bit_cast",
    "bitwise_not",
    "import_bit_cast",
    "import_bit_shift",
    "import_bitwise_and",
    "import_bitwise_not",
    "import_bitwise_or",
    "import_bitwise_xor",
    "shift",
]

import onnx_ir as ir
import torch
from torch import Tensor

from .attributes import one_of
from .cast import declared, held, narrow
from .registry import leaf, register, unsupported
from .unsigned import as_int64


@register("BitwiseAnd", 18)
def import_bitwise_and(node: ir.Node, a: Tensor, b: Tensor) -> Tensor:
    """Import BitwiseAnd."""
    return torch.bitwise_and(a, b)


@register("BitwiseOr", 18)
def import_bitwise_or(node: ir.Node, a: Tensor, b: Tensor) -> Tensor:
    """Import BitwiseOr."""
    return torch.bitwise_or(a, b)


@register("BitwiseXor", 18)
def import_bitwise_xor(node: ir.Node, a: Tensor, b: Tensor) -> Tensor:
    """Import BitwiseXor."""
    return torch.bitwise_xor(a, b)


@register("BitwiseNot", 18)
def import_bitwise_not(node: ir.Node, x: Tensor) -> Tensor:
    """Import BitwiseNot."""
    return bitwise_not(x)


@leaf
def bitwise_not(x: Tensor) -> Tensor:
    """Every bit turned over."""
    return torch.bitwise_not(as_int64(x)).to(x.dtype)


@register("BitShift", 11, 28)
def import_bit_shift(node: ir.Node, x: Tensor, y: Tensor, *, direction: str) -> Tensor:
    """Import BitShift."""
    return shift(x, y, one_of(node, "direction", direction, ("LEFT", "RIGHT")) == "LEFT")


@leaf
def shift(x: Tensor, y: Tensor, left: bool) -> Tensor:
    """``x`` shifted by ``y`` bits; by a negative number, or by all bits or more, nothing of ``x`` is left.

    To the right a signed number keeps its sign, so that -1 is what is left of a negative one.
    """
    bits, places = as_int64(x).long(), as_int64(y).long()
    inside = (places >= 0) & (places < 8 * x.dtype.itemsize)
    if left:
        return torch.where(inside, bits << torch.where(inside, places, 0), 0).to(x.dtype)
    if x.dtype != torch.uint64:
        return (bits >> torch.where(inside, places, 63)).to(x.dtype)
    rest = ((bits >> 1) & torch.iinfo(torch.int64).max) >> (places - 1).clamp(0, 63)  # no sign any more
    return torch.where(inside, torch.where(places == 0, bits, rest), 0).to(x.dtype)


@register("BitCast", 26)
def import_bit_cast(node: ir.Node, x: Tensor, *, to: int) -> Tensor:
    """Import BitCast.

    Raises:
        UnsupportedOpError: Torch cannot hold one of the types, or their widths differ.
    """
    target, source = ir.DataType(to), declared(node, 0)
    dtype = held(node, target, "output")
    if source and source.bitwidth != target.bitwidth:
        raise unsupported(
            node,
            f"to={target.name} has {target.bitwidth} bits, allowed are types of {source.bitwidth}, as of its "
            "input. Export the model again",
        )
    return narrow(x, target.bitwidth, dtype) if target.bitwidth < 8 else bit_cast(x, dtype)


@leaf
def bit_cast(x: Tensor, dtype: torch.dtype) -> Tensor:
    """The bits of ``x`` as numbers of another type of the same width."""
    return x.view(dtype)
