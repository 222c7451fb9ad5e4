"""Conversion from one element type to another."""

from __future__ import annotations

__all__ = [
    "cast_like",
    "declared",
    "held",
    "import_cast",
    "import_cast_like",
    "narrow",
    "to_float8",
    "to_power_of_two",
]

import onnx_ir as ir
import torch
from torch import Tensor

from .attributes import one_of
from .dtypes import TORCH_DTYPES
from .registry import leaf, register, unsupported

_FLOAT8 = (torch.float8_e4m3fn, torch.float8_e4m3fnuz, torch.float8_e5m2, torch.float8_e5m2fnuz)
_LARGEST_TO_448 = 464.0
"""Halfway from 448, the largest float8_e4m3fn, to the next step, 480: what rounds to 448, as 448 is even."""


@register("Cast", 6, 9, 13, 19, 21, 23, 24, 25, 28, moved=("x",))
def import_cast(node: ir.Node, x: Tensor, *, to: int, saturate: int = 1, round_mode: str = "up") -> Tensor:
    """Import Cast.

    Raises:
        UnsupportedOpError: Torch cannot hold one of the types.
    """
    declared(node, 0)  # refuses a type that torch lacks
    one_of(node, "round_mode", round_mode, ("up", "down", "nearest"))
    return _cast(node, x, ir.DataType(to), bool(saturate), round_mode)


@register("CastLike", 15, 19, 21, 23, 24, 25)
def import_cast_like(
    node: ir.Node, x: Tensor, target: Tensor, *, saturate: int = 1, round_mode: str = "up"
) -> Tensor:
    """Import CastLike. A target of unknown type that a byte carries, as INT4, is taken for that byte.

    Raises:
        UnsupportedOpError: Torch cannot hold one of the types.
    """
    declared(node, 0)  # refuses a type that torch lacks
    one_of(node, "round_mode", round_mode, ("up", "down", "nearest"))
    to = declared(node, 1)
    if to is None:
        return cast_like(x, target, bool(saturate), round_mode)
    return _cast(node, x, to, bool(saturate), round_mode)


def declared(node: ir.Node, index: int) -> ir.DataType | None:
    """The type of an input; None where the model does not say.

    Raises:
        UnsupportedOpError: Torch cannot hold it.
    """
    value = node.inputs[index]
    if value is None or not value.dtype:
        return None
    held(node, value.dtype, "input")
    return value.dtype


def held(node: ir.Node, dtype: ir.DataType, what: str) -> torch.dtype:
    """The torch type that holds or carries the type of what the node takes or gives.

    Raises:
        UnsupportedOpError: There is none.
    """
    if dtype not in TORCH_DTYPES:
        raise unsupported(
            node,
            f"its {what} is {dtype.name}, which torch cannot hold. Export the model with another type in its "
            "place, or cut this part off",
        )
    return TORCH_DTYPES[dtype]


def _cast(node: ir.Node, x: Tensor, to: ir.DataType, saturate: bool, round_mode: str) -> Tensor:
    dtype = held(node, to, "output")
    return narrow(x, to.bitwidth, dtype) if to.bitwidth < 8 else _to(x, dtype, saturate, round_mode)


def _to(x: Tensor, dtype: torch.dtype, saturate: bool, round_mode: str) -> Tensor:
    if dtype == torch.float8_e8m0fnu:
        return to_power_of_two(x, saturate, round_mode)
    return to_float8(x, dtype, saturate) if dtype in _FLOAT8 else x.to(dtype)


@leaf
def cast_like(x: Tensor, target: Tensor, saturate: bool, round_mode: str) -> Tensor:
    """``x`` in the type of ``target``."""
    return _to(x, target.dtype, saturate, round_mode)


@leaf
def narrow(x: Tensor, bits: int, dtype: torch.dtype) -> Tensor:
    """``x`` as integers of 2 or 4 bits, in bytes: truncated toward zero, higher bits discarded."""
    low: Tensor = x.long() & (2**bits - 1)
    sign = 2 ** (bits - 1) if dtype.is_signed else 0
    return ((low ^ sign) - sign).to(dtype)


@leaf
def to_float8(x: Tensor, dtype: torch.dtype, saturate: bool) -> Tensor:
    """``x`` as 8-bit floats, rounded half to even.

    Past the largest one: that one if ``saturate``, and if not, infinity, or NaN where the type has none.
    """
    x = x if x.is_floating_point() else x.float()
    if saturate:
        largest = torch.finfo(dtype).max
        x = x.clamp(-largest, largest)
    elif dtype == torch.float8_e4m3fn:  # which torch saturates from some version on
        x = x.masked_fill(x.abs() > _LARGEST_TO_448, torch.nan)
    return x.to(dtype)


@leaf
def to_power_of_two(x: Tensor, saturate: bool, round_mode: str) -> Tensor:
    """``x`` as float8_e8m0fnu, the powers of two from ``2**-127`` to ``2**127``.

    Past either end: that end if ``saturate``, else NaN. The sign, of which the standard says nothing, is
    dropped.
    """
    x = x.double()
    mantissa, exponent = torch.frexp(x.abs())  # x = mantissa * 2**exponent, mantissa in [0.5, 1)
    up = {"up": mantissa > 0.5, "nearest": mantissa >= 0.75, "down": mantissa > 1}[round_mode]
    code: Tensor = (exponent + 126 + up.int()).masked_fill(mantissa == 0, -1)
    code = code.masked_fill(torch.isinf(x), 255)
    code = code.clamp(0, 254) if saturate else code.masked_fill((code < 0) | (code > 254), 255)
    return code.masked_fill(torch.isnan(x), 255).to(torch.uint8).view(torch.float8_e8m0fnu)
