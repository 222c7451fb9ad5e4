"""Formulas of one value, read from the nodes that exporters spell them with."""

from __future__ import annotations

__all__ = ["Ramp", "close", "factors", "gated", "polynomial", "ramps", "scalar"]

import dataclasses
import math
from collections.abc import Iterator

import onnx_ir as ir

from ..values import array, float_attribute, is_op

_TOLERANCE = 2e-6
"""How far the constants of a formula may be off, relative: exporters write six to eight digits."""

_DEPTH = 8
"""How many nodes a formula may be spelled with, one behind the other."""


def close(found: float, wanted: float) -> bool:
    """Whether a constant is the one of the formula."""
    return math.isclose(found, wanted, rel_tol=_TOLERANCE)


@dataclasses.dataclass(frozen=True)
class Ramp:
    """``clip(slope * source + offset, low, high)``."""

    source: ir.Value
    slope: float = 1.0
    offset: float = 0.0
    low: float = -math.inf
    high: float = math.inf

    @property
    def is_linear(self) -> bool:
        """Whether it is ``slope * source``."""
        return not self.offset and self.low == -math.inf and self.high == math.inf

    def plus(self, number: float) -> Ramp:
        return Ramp(self.source, self.slope, self.offset + number, self.low + number, self.high + number)

    def times(self, number: float) -> Ramp:
        low, high = sorted((self.low * number, self.high * number))
        return Ramp(self.source, self.slope * number, self.offset * number, low, high)

    def clipped(self, low: float, high: float) -> Ramp:
        return dataclasses.replace(
            self, low=min(max(self.low, low), high), high=min(max(self.high, low), high)
        )


def ramps(value: ir.Value, *, depth: int = _DEPTH) -> Iterator[Ramp]:
    """All readings of a value as a ramp, of itself first, then of what lies further back.

    Follows Add, Sub, Mul, Div, Min and Max with one number, Neg, Relu, Clip and HardSigmoid, ``depth``
    of them at most.
    """
    yield Ramp(value)
    node = value.producer()
    if node is None or node.domain or not node.inputs or not depth:
        return
    if len(node.inputs) == 2 and is_op(node, "Add", "Sub", "Mul", "Div", "Min", "Max"):
        yield from _with_number(node, depth)
    elif is_op(node, "Neg", "Relu", "Clip", "HardSigmoid") and node.inputs[0] is not None:
        bounds = _bounds(node)
        for inner in ramps(node.inputs[0], depth=depth - 1) if bounds is not None else ():
            if is_op(node, "Neg"):
                yield inner.times(-1.0)
                continue
            if is_op(node, "HardSigmoid"):
                alpha, beta = float_attribute(node, "alpha", 0.2), float_attribute(node, "beta", 0.5)
                inner = inner.times(alpha).plus(beta)
            assert bounds is not None  # or there is no inner one
            yield inner.clipped(*bounds)


def _with_number(node: ir.Node, depth: int) -> Iterator[Ramp]:
    first, second = node.inputs
    numbers = scalar(first, beside=second), scalar(second, beside=first)
    x = first if numbers[1] is not None else second
    number = numbers[1] if numbers[1] is not None else numbers[0]
    if x is None or number is None or not math.isfinite(number):
        return
    for inner in ramps(x, depth=depth - 1):
        if is_op(node, "Add"):
            yield inner.plus(number)
        elif is_op(node, "Sub"):
            yield inner.plus(-number) if x is first else inner.times(-1.0).plus(number)
        elif is_op(node, "Mul") and number:
            yield inner.times(number)
        elif is_op(node, "Div") and number and x is first:
            yield inner.times(1 / number)
        elif is_op(node, "Min"):
            yield inner.clipped(-math.inf, number)
        elif is_op(node, "Max"):
            yield inner.clipped(number, math.inf)


def _bounds(node: ir.Node) -> tuple[float, float] | None:
    """What a node clips to."""
    if is_op(node, "Clip"):
        low, high = (
            scalar(node.inputs[index])
            if len(node.inputs) > index and node.inputs[index] is not None
            else wide
            for index, wide in ((1, -math.inf), (2, math.inf))
        )
        return None if low is None or high is None else (low, high)
    return (0.0, 1.0 if is_op(node, "HardSigmoid") else math.inf)


def scalar(value: ir.Value | None, *, beside: ir.Value | None = None, kinds: str = "f") -> float | None:
    """The number of a constant of one element that adds no dimension to the value ``beside`` it.

    Args:
        value: Perhaps a constant.
        beside: What it is added to, multiplied by and so on; of one dimension if its rank is not known.
        kinds: Of numpy types. Only an exponent of a formula on floats may be an integer.
    """
    numbers = array(value)
    if numbers is None or numbers.size != 1 or numbers.dtype.kind not in kinds:
        return None
    rank = len(beside.shape) if beside is not None and beside.shape is not None else 1
    return float(numbers.reshape(())) if beside is None or numbers.ndim <= rank else None


def gated(node: ir.Node) -> Iterator[tuple[ir.Value, ir.Value, float]]:
    """``(x, gate, number)`` for every way to read the node as ``x * (number * gate)``."""
    found = factors(node)
    if found is None:
        return
    number, first, second = found
    for a, gate in ((first, second), (second, first)):
        for line in ramps(a):
            if line.is_linear:
                yield line.source, gate, number * line.slope


def factors(node: ir.Node) -> tuple[float, ir.Value, ir.Value] | None:
    """``(number, a, b)`` where the node computes ``number * a * b``, and neither is a number."""
    number = 1.0
    for _ in range(_DEPTH):
        if not is_op(node, "Mul", "Div"):
            return None
        first, second = node.inputs
        if first is None or second is None:
            return None
        left, right = scalar(first, beside=second), scalar(second, beside=first)
        inside = second if right is None else first
        if right is not None and right:
            number = number * right if is_op(node, "Mul") else number / right
        elif left is not None and is_op(node, "Mul"):
            number *= left
        elif left is None and right is None and is_op(node, "Mul"):
            return number, first, second
        else:
            return None
        producer = inside.producer()
        if producer is None:
            return None
        node = producer
    return None


def polynomial(value: ir.Value, x: ir.Value, *, depth: int = _DEPTH) -> dict[int, float] | None:
    """The coefficients of a value as a polynomial in ``x``, by power.

    None if it is not one, or is written with more than ``depth`` nodes on the way.
    """
    if value is x:
        return {1: 1.0}
    number = scalar(value, beside=x, kinds="fi")
    if number is not None:
        return {0: number}
    node = value.producer()
    if node is None or not is_op(node, "Add", "Sub", "Mul", "Div", "Pow") or not depth:
        return None
    first, second = (
        polynomial(source, x, depth=depth - 1) if source is not None else None for source in node.inputs
    )
    if first is None or second is None:
        return None
    if is_op(node, "Add", "Sub"):
        sign = 1.0 if is_op(node, "Add") else -1.0
        return {p: first.get(p, 0.0) + sign * second.get(p, 0.0) for p in {*first, *second}}
    if is_op(node, "Mul"):
        return _product(first, second)
    if set(second) != {0}:
        return None
    if is_op(node, "Div"):
        return {p: a / second[0] for p, a in first.items()} if second[0] else None
    return (
        _product(_product(first, first), first if second[0] == 3 else {0: 1.0})
        if second[0] in (2, 3)
        else None
    )


def _product(first: dict[int, float], second: dict[int, float]) -> dict[int, float]:
    result: dict[int, float] = {}
    for p, a in first.items():
        for q, b in second.items():
            result[p + q] = result.get(p + q, 0.0) + a * b
    return result
