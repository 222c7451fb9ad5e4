"""Codes as uint8 or as float32 tensors, and the way from codes to real values and back."""

from __future__ import annotations

__all__ = [
    "OF_CODES",
    "Carrier",
    "FloatCarrier",
    "Side",
    "Uint8Carrier",
    "install",
    "note_weight",
    "parameters",
    "side",
]

import abc
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from .. import metadata
from ..constants import scalar_of
from ..values import array
from .steps import Steps

OF_CODES = (metadata.BITS, metadata.ISLAND, metadata.KEPT)
"""What is noted on the node that makes codes."""


class Side(NamedTuple):
    """Codes with their one scale and zero point, as QLinear operators take them."""

    value: ir.Value
    scale: np.float32
    zero: int


def parameters(node: ir.Node, index: int) -> tuple[np.float32, int] | None:
    """The one scale and zero point at two inputs of a node; None if they are more, or computed."""
    if len(node.inputs) < index + 2:
        return None
    scale, zero = scalar_of(node.inputs[index]), scalar_of(node.inputs[index + 1])
    return None if scale is None or zero is None else (np.float32(scale), int(zero))


def side(node: ir.Node, index: int) -> Side | None:
    """The codes at an input, with the scale and zero point at the two behind it."""
    found = parameters(node, index + 1)
    value = node.inputs[index] if len(node.inputs) > index else None
    return None if found is None or value is None else Side(value, *found)


class Carrier(Steps, abc.ABC):
    """Steps on codes of one type.

    Attributes:
        dtype: The type of codes.
    """

    dtype: ir.DataType

    def __call__(
        self,
        op: str,
        *inputs: ir.Value,
        like: ir.Value | None = None,
        dtype: ir.DataType = ir.DataType.FLOAT,
        **attributes: Any,
    ) -> ir.Value:
        """Write one operator; its result has the shape of ``like``, by default that of the node's."""
        like = self.node.outputs[0] if like is None else like
        return self.add(op, inputs, dtype, label=op.lower(), like=like, **attributes)

    def scalar(self, value: float | np.float32) -> ir.Value:
        """A float32 constant of rank 0."""
        number = np.float32(value)
        return self.number(f"float{number:g}", number)

    def integers(self, numbers: Sequence[int]) -> ir.Value:
        """An int64 constant of rank 1."""
        return self.number("ints." + "x".join(map(str, numbers[:3])), np.array(numbers, np.int64))

    def own(self, label: str, numbers: NDArray[Any]) -> ir.Value:
        """A constant that is called after the result of the node."""
        return self.number(f"{self.node.outputs[0].name}.{label}", numbers)

    @abc.abstractmethod
    def carried(self, codes: ir.Value) -> ir.Value:
        """Codes as this type, where they are constant."""

    @abc.abstractmethod
    def real(self, x: Side, scale: np.float32 | float) -> ir.Value:
        """``float32(x - zero) * scale``."""

    @abc.abstractmethod
    def codes(self, real: ir.Value, zero: int, *, like: ir.Value | None = None) -> ir.Value:
        """``clamp(rint(real) + zero, 0, 255)``."""


class Uint8Carrier(Carrier):
    """Codes are uint8 tensors.

    The Round between an operator and QuantizeLinear keeps ONNX Runtime from making one operator, with a
    rounding of its own, of DequantizeLinear, operator and QuantizeLinear.
    """

    dtype = ir.DataType.UINT8

    def carried(self, codes: ir.Value) -> ir.Value:
        return codes

    def real(self, x: Side, scale: np.float32 | float) -> ir.Value:
        return self("DequantizeLinear", x.value, self.scalar(scale), self._zero(x.zero), like=x.value)

    def codes(self, real: ir.Value, zero: int, *, like: ir.Value | None = None) -> ir.Value:
        rounded = self("Round", real, like=like)
        parameters = (self.scalar(1), self._zero(zero))
        return self("QuantizeLinear", rounded, *parameters, like=like, dtype=ir.DataType.UINT8)

    def _zero(self, zero: int) -> ir.Value:
        return self.number(f"code{zero}", np.uint8(zero))


class FloatCarrier(Carrier):
    """Codes are float32 tensors of integers."""

    dtype = ir.DataType.FLOAT

    def carried(self, codes: ir.Value) -> ir.Value:
        numbers = array(codes)
        if numbers is None or numbers.dtype != np.uint8:
            return codes
        return self.number(f"{codes.name}.float", numbers.astype(np.float32))

    def real(self, x: Side, scale: np.float32 | float) -> ir.Value:
        value = self.carried(x.value)
        if x.zero:
            value = self("Sub", value, self.scalar(x.zero), like=x.value)
        return value if scale == 1 else self("Mul", value, self.scalar(scale), like=x.value)

    def codes(self, real: ir.Value, zero: int, *, like: ir.Value | None = None) -> ir.Value:
        rounded = self("Round", real, like=like)
        if zero:
            rounded = self("Add", rounded, self.scalar(zero), like=like)
        return self("Clip", rounded, self.scalar(0), self.scalar(255), like=like)


def install(steps: Carrier, result: ir.Value) -> bool:
    """Put the steps in the place of their node, and ``result`` in that of its first output; True."""
    node, old = steps.node, steps.node.outputs[0]
    maker = result.producer()
    assert maker is not None  # the steps end with an operator
    result.name = maker.name = old.name
    result.shape, old.type = old.shape, result.type
    for key in OF_CODES:
        if key in node.metadata_props:
            maker.metadata_props[key] = node.metadata_props[key]
    ir.convenience.replace_nodes_and_values(steps.graph, node, [node], steps.nodes, [old], [result])
    return True


def note_weight(node: ir.Node, layer: ir.Node) -> None:
    """Note what the integer layer says of its weight: on the node that takes the codes, and on the layer."""
    for key in (metadata.WEIGHT, metadata.WEIGHT_BITS, metadata.GRID):
        if key in layer.metadata_props:
            node.metadata_props[key] = layer.metadata_props[key]
