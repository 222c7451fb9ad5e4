"""Recognize the quantized neighbourhood of an operator in a QDQ graph."""

from __future__ import annotations

__all__ = [
    "Codes",
    "Requantization",
    "Weight",
    "accumulator_fault",
    "dequantized",
    "dequantized_bias",
    "dequantized_weight",
    "requantization",
    "weight_fault",
]

import dataclasses

import numpy as np
import onnx_ir as ir
from numpy.typing import ArrayLike, NDArray

from .. import arithmetic, metadata
from ..constants import scalar_of
from ..plan import Grid
from ..values import array, only_user

_LARGEST_ACCUMULATOR = 2**31 - 1


@dataclasses.dataclass(frozen=True)
class Codes:
    """An activation that comes out of a DequantizeLinear: ``real = scale * (code - zero_point)``.

    ``offset``, as it is noted, is not in that: the operators behind have it in their biases.
    """

    name: str
    value: ir.Value
    scale: np.float32
    zero_point: int
    bits: int
    offset: np.float32 = np.float32(0)  # noqa: RUF009  numpy scalars are immutable

    @property
    def high(self) -> int:
        """The largest code."""
        return (1 << self.bits) - 1


@dataclasses.dataclass(frozen=True)
class Weight:
    """Codes of a weight around 0, one scale per kernel.

    They are int8, but for a weight that is stored as uint8 with a ``zero_point`` (one, or one per kernel):
    less that, they take int16.
    """

    name: str
    codes: NDArray[np.int8] | NDArray[np.int16]
    scale: NDArray[np.float32]
    bits: tuple[int, ...]
    grid: Grid
    zero_point: NDArray[np.uint8] | None = None


@dataclasses.dataclass(frozen=True)
class Requantization:
    """What follows an operator up to the codes of its result: ``(Relu | Clip)* [Sub] Q [Clip]``.

    Rounding and clamping are monotone, so a Relu or Clip before Q is a clamp of the codes after it:
    all of them are one range, ``low`` to ``high``. So is taking off an offset: the code of a bound is
    ``clamp(rint((bound - offset) / scale) + zero_point)``.
    """

    name: str
    nodes: tuple[ir.Node, ...]
    codes: ir.Value
    scale: np.float32
    zero_point: int
    low: int
    high: int
    bits: int
    offset: np.float32 = np.float32(0)  # noqa: RUF009


def dequantized(value: ir.Value | None) -> Codes | None:
    """The codes behind an activation, if a uint8 DequantizeLinear with one scale makes it."""
    node = value.producer() if value is not None else None
    if node is None or node.op_identifier() != ("", "DequantizeLinear", ""):
        return None
    params = _scale_and_zero(node)
    codes = node.inputs[0]
    if params is None or codes is None or array(codes) is not None:
        return None
    bits = int(node.metadata_props.get(metadata.BITS, "8"))
    offset = np.float32(node.metadata_props.get(metadata.OFFSET, "0"))
    return Codes(_params_name(node, codes), codes, *params, bits=bits, offset=offset)


def dequantized_weight(value: ir.Value | None) -> Weight | None:
    """The codes behind a weight, if they are symmetric int8 or any uint8, and scaled along axis 0."""
    node = value.producer() if value is not None else None
    if node is None or node.op_identifier() != ("", "DequantizeLinear", "") or weight_fault(node) is not None:
        return None
    codes, scale = array(node.inputs[0]), array(node.inputs[1])
    assert codes is not None  # or it would be a fault
    assert scale is not None
    kernels, zero_point = len(codes), None
    if codes.dtype == np.uint8:
        zero = array(node.inputs[2]) if len(node.inputs) > 2 else None
        zero_point = (
            np.zeros((), np.uint8) if zero is None else zero.reshape(-1)[0] if zero.size == 1 else zero
        )
        offset = np.asarray(zero_point).astype(np.int16)
        codes = codes.astype(np.int16) - offset.reshape(-1, *[1] * (codes.ndim - 1))
    bits = metadata.from_digits(node.metadata_props.get(metadata.BITS, "8" * kernels))
    return Weight(
        name=node.metadata_props.get(metadata.NAME, str(node.outputs[0].name)),
        codes=codes,
        scale=np.broadcast_to(scale.reshape(-1), (kernels,)),
        bits=bits,
        grid=Grid(node.metadata_props.get(metadata.GRID, Grid.FULL.value)),
        zero_point=zero_point,
    )


def weight_fault(node: ir.Node) -> str | None:
    """Why what a DequantizeLinear makes is no weight to compute with in integers; None if it is one."""
    codes, scale = array(node.inputs[0]), array(node.inputs[1])
    zero = array(node.inputs[2]) if len(node.inputs) > 2 else None
    if codes is None or scale is None:
        return "has codes or scales that are computed, allowed constants"
    if codes.dtype not in (np.int8, np.uint8) or scale.dtype != np.float32:
        return f"has {codes.dtype} codes and {scale.dtype} scales, allowed int8, uint8 and float32"
    if codes.ndim < 2:
        return f"has rank {codes.ndim}, allowed 2 or more"
    if zero is not None and np.any(zero) and codes.dtype == np.int8:
        return "has a zero point other than 0, allowed 0"
    axis = node.attributes.get_int("axis", 1)
    if scale.size > 1 and axis not in (0, -codes.ndim):
        return f"is scaled along axis {axis}, allowed 0, the kernels"
    if scale.size > 1 and scale.shape != codes.shape[:1]:
        return f"has scales of shape {list(scale.shape)}, allowed one per kernel, {[len(codes)]}"
    return None


def accumulator_fault(x: Codes, weight: Weight, bias: ArrayLike) -> str | None:
    """Why a sum of products and a bias does not fit int32; None if it does, whatever the input.

    A bias code at the very end of int32 is one that did not fit.
    """
    bound = arithmetic.accumulator_bound(weight.codes, bias, -x.zero_point, x.high - x.zero_point)
    if bound < _LARGEST_ACCUMULATOR:
        return None
    return f"its accumulator can reach {bound}, allowed less than {_LARGEST_ACCUMULATOR}"


def dequantized_bias(value: ir.Value | None, unit: NDArray[np.float32]) -> NDArray[np.int32] | None:
    """The int32 codes of a bias in steps of ``unit``; a float initializer is quantized here."""
    real = array(value)
    if real is not None and real.dtype == np.float32:
        return arithmetic.quantize_bias(real, np.float32(1), unit)
    node = value.producer() if value is not None else None
    if node is None or node.op_identifier() != ("", "DequantizeLinear", ""):
        return None
    codes, scale = array(node.inputs[0]), array(node.inputs[1])
    if codes is None or scale is None or codes.dtype != np.int32:
        return None
    scale = np.broadcast_to(scale.reshape(-1), unit.shape)
    if np.array_equal(scale, unit):
        return codes
    return arithmetic.quantize_bias(arithmetic.dequantize(codes, scale), np.float32(1), unit)


def requantization(node: ir.Node, *, with_offset: bool = False) -> Requantization | None:
    """The way from an operator's result to its codes, or None if it is used in any other way.

    If the operator is a Relu or Clip itself, its bounds count; if it is the QuantizeLinear, it starts
    there.

    Args:
        node: The operator.
        with_offset: Whether the caller takes an offset off the result; if not, the Sub is another use.
    """
    nodes: list[ir.Node] = []
    own = _clamp(node)
    clamps = [] if own is None else [own]
    offset = np.float32(0)
    user: ir.Node | None = node
    while user is not None and user.op_identifier() != ("", "QuantizeLinear", ""):
        if user is not node:
            clamp, shift = _clamp(user), _subtracted(user) if with_offset else None
            if clamp is not None:
                clamps.append(clamp)
            elif shift is not None:
                offset = shift
            else:
                return None
            nodes.append(user)
        user = only_user(user.outputs[0])
    if user is None:
        return None
    nodes.append(user)
    params = _scale_and_zero(nodes[-1])
    if params is None:
        return None
    scale, zero = params
    codes, low, high = nodes[-1].outputs[0], 0, 255
    for bound_low, bound_high in clamps:
        least, most = (
            end if bound is None else int(arithmetic.quantize(bound, scale, zero, 0, 255, offset=offset))
            for bound, end in ((bound_low, 0), (bound_high, 255))
        )
        low, high = min(max(low, least), most), min(max(high, least), most)
    quantize = nodes[-1]
    bits = int(quantize.metadata_props.get(metadata.BITS, "8"))
    clip = only_user(codes)
    if clip is not None and clip.op_identifier() == ("", "Clip", ""):
        lowest, highest = _bound(clip, 1, 0), _bound(clip, 2, 255)
        if lowest is None or highest is None:
            return None
        least, most = int(lowest), int(highest)
        low, high = min(max(low, least), most), min(max(high, least), most)
        nodes.append(clip)
        codes = clip.outputs[0]
    return Requantization(
        _params_name(quantize, codes), tuple(nodes), codes, scale, zero, low, high, bits, offset
    )


def _params_name(node: ir.Node, codes: ir.Value) -> str:
    """What the scale and zero point of a Q or DQ are called after."""
    return node.metadata_props.get(metadata.NAME, str(codes.name))


def _scale_and_zero(node: ir.Node) -> tuple[np.float32, int] | None:
    """The one scale and uint8 zero point of a Q or DQ."""
    scale = scalar_of(node.inputs[1])
    if scale is None or scale.dtype != np.float32:
        return None
    if len(node.inputs) < 3 or node.inputs[2] is None:
        codes = node.inputs[0] if node.op_type == "DequantizeLinear" else node.outputs[0]
        unsigned = codes is not None and codes.dtype in (None, ir.DataType.UINT8)
        return (np.float32(scale), 0) if unsigned else None
    zero = scalar_of(node.inputs[2])
    return None if zero is None or zero.dtype != np.uint8 else (np.float32(scale), int(zero))


def _clamp(node: ir.Node) -> tuple[float | None, float | None] | None:
    """The bounds of a float Relu or Clip; None where the node is neither or the bounds are computed."""
    if node.op_identifier() == ("", "Relu", ""):
        return 0.0, None
    if node.op_identifier() != ("", "Clip", ""):
        return None
    low, high = _bound(node, 1, -np.inf), _bound(node, 2, np.inf)
    return None if low is None or high is None else (float(low), float(high))


def _subtracted(node: ir.Node) -> np.float32 | None:
    """The constant that a Sub, with a QuantizeLinear right behind it, takes off."""
    user = only_user(node.outputs[0])
    if node.op_identifier() != ("", "Sub", "") or user is None or user.op_type != "QuantizeLinear":
        return None
    number = array(node.inputs[1])
    return np.float32(number) if number is not None and number.ndim == 0 else None


def _bound(node: ir.Node, index: int, default: float) -> float | None:
    """A bound of a Clip: the default if it is left out, None if it is not a constant."""
    if len(node.inputs) <= index or node.inputs[index] is None:
        return default
    held = scalar_of(node.inputs[index])
    return None if held is None else float(held)
