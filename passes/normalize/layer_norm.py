"""Recognize LayerNormalization."""

from __future__ import annotations

__all__ = ["FuseLayerNormPass"]

import logging
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from ..values import (
    array,
    gathered_names,
    int_attribute,
    is_op,
    own,
    stamp,
)
from .build import take_place
from .ramp import scalar

logger = logging.getLogger(__name__)


class _Match(NamedTuple):
    x: ir.Value
    axes: tuple[int, ...]
    epsilon: float
    gamma: ir.Value
    beta: ir.Value | None


class FuseLayerNormPass(ir.passes.InPlacePass):
    """Replace the spellings of LayerNormalization with a constant scale by this operator.

    Before: ``m = ReduceMean(x, -1)  d = Sub(x, m)  p = Pow(d, 2)  v = ReduceMean(p, -1)  e = Add(v, 1e-5)``
            ``s = Sqrt(e)  n = Div(d, s)  g = Mul(n, gamma)  y = Add(g, beta)``
    After:  ``y = LayerNormalization<axis=-1, epsilon=1e-5>(x, gamma, beta)``

    1. As torch writes it, with Pow or Mul, Div or Mul by a Reciprocal, and the factors in any order.
    2. As Keras does: ``x * w + (beta - m * w)``, ``w = gamma / sqrt(v + epsilon)``.

    Results differ by the rounding of float32. ``gamma`` and ``beta`` keep their names, and lose leading
    ones; with leading ones and a second use they are copied. In form 1 a ``beta`` that does not fit stays
    an Add. Left alone: means over other than the last axes, no ``gamma``, one that is not constant or not
    of the size of these axes, any constant of more dimensions than ``x``, which would give the result
    more too, and an ``x`` of unknown rank.
    """

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        # From the end, so that an Add of beta is seen before the Mul by gamma in front of it.
        nodes = [node for node in reversed(list(model.graph)) if is_op(node, "Add", "Mul", "Div")]
        with gathered_names(model.graph):
            fused = sum(_fuse(node, self) for node in nodes)
        if fused:
            logger.info("Recognized %d LayerNormalization", fused)
        return ir.passes.PassResult(model, modified=bool(fused))


def _fuse(node: ir.Node, pass_: ir.passes.PassBase) -> bool:
    graph, out = node.graph, node.outputs[0]
    assert isinstance(graph, ir.Graph)  # the caller iterates over one
    found = _match(node) if out.uses() or out.is_graph_output() else None
    if found is None or found.x.shape is None:
        return False
    shape = tuple(found.x.shape[len(found.x.shape) - len(found.axes) :])
    inputs: list[ir.Value | None] = [found.x]
    for value in (found.gamma, found.beta):
        numbers = _fitting(value, shape, len(found.x.shape))
        if numbers is None and value is not None:
            return False
        if value is not None and numbers is not None:
            held = array(value)
            same = held is not None and held.shape == numbers.shape
            copy = f"{value.name}_{node.name}"
            inputs.append(value if same else own(graph, value, numbers, users=value.consumers(), copy=copy))
    attributes = {"axis": -len(found.axes), "epsilon": found.epsilon}
    new = stamp(ir.node("LayerNormalization", inputs, attributes, name=node.name), pass_)
    graph.insert_before(node, new)
    take_place(node, new.outputs[0])
    return True


def _fitting(
    value: ir.Value | None, shape: tuple[int | ir.SymbolicDim, ...], rank: int
) -> NDArray[np.float32] | None:
    """A constant of ``rank`` dimensions at most in exactly this shape, leading ones taken away."""
    numbers = array(value)
    if numbers is None or numbers.dtype != np.float32 or not len(shape) <= numbers.ndim <= rank:
        return None
    extra = numbers.ndim - len(shape)
    if any(size != 1 for size in numbers.shape[:extra]):
        return None
    return numbers.reshape(numbers.shape[extra:]) if numbers.shape[extra:] == shape else None


def _match(node: ir.Node) -> _Match | None:
    if not is_op(node, "Add"):
        return _scaled(node.outputs[0], None)
    for part, other in _both(node):
        if array(other) is not None:
            return _scaled(part, other)
        found = _as_batch_norm(part, other)
        if found is not None:
            return found
    return None


def _scaled(value: ir.Value, beta: ir.Value | None) -> _Match | None:
    """``gamma * (x - mean) / sqrt(variance + epsilon)``."""
    above, below = _fraction(value)
    gammas = [factor for factor in above if array(factor) is not None]
    rest = [factor for factor in above if array(factor) is None]
    if len(gammas) != 1 or len(rest) != 1 or len(below) != 1:
        return None
    x, axes = _deviation(rest[0]) or (None, ())
    spread = _spread(below[0])
    if x is None or spread is None or spread[:2] != (x, axes):
        return None
    return _Match(x, axes, spread[2], gammas[0], beta)


def _as_batch_norm(product: ir.Value, shift: ir.Value) -> _Match | None:
    """``x * w`` and ``beta - mean * w``, with ``w = gamma / sqrt(variance + epsilon)``."""
    difference = shift.producer()
    if difference is None or not is_op(difference, "Sub"):
        return None
    beta, behind = difference.inputs
    if array(beta) is None or behind is None:
        return None
    (above, below), (above_mean, below_mean) = _fraction(product), _fraction(behind)
    gammas = [factor for factor in above if array(factor) is not None]
    xs = [factor for factor in above if array(factor) is None]
    means = [factor for factor in above_mean if array(factor) is None]
    if len(gammas) != 1 or len(xs) != 1 or len(means) != 1 or len(below) != 1 or below != below_mean:
        return None
    if [factor for factor in above_mean if array(factor) is not None] != gammas:
        return None
    spread = _spread(below[0])
    axes = _mean_axes(means[0], xs[0])
    if spread is None or not axes or spread[:2] != (xs[0], axes):
        return None
    return _Match(xs[0], axes, spread[2], gammas[0], beta)


def _fraction(value: ir.Value, depth: int = 4) -> tuple[list[ir.Value], list[ir.Value]]:
    """The factors of a product of Mul, Div and Reciprocal, above and below the line."""
    node = value.producer()
    if node is None or not is_op(node, "Mul", "Div", "Reciprocal") or not depth:
        return [value], []
    parts = [_fraction(source, depth - 1) for source in node.inputs if source is not None]
    if is_op(node, "Mul"):
        return parts[0][0] + parts[1][0], parts[0][1] + parts[1][1]
    if is_op(node, "Reciprocal"):
        return parts[0][1], parts[0][0]
    if scalar(node.inputs[0], beside=node.inputs[1]) == 1.0:
        return parts[1][1], parts[1][0]
    return parts[0][0] + parts[1][1], parts[0][1] + parts[1][0]


def _spread(value: ir.Value) -> tuple[ir.Value, tuple[int, ...], float] | None:
    """``(x, axes, epsilon)`` of ``sqrt(mean((x - mean(x))**2) + epsilon)``."""
    root = value.producer()
    if root is None or not (is_op(root, "Sqrt") or (is_op(root, "Pow") and _exponent(root) == 0.5)):
        return None
    total = root.inputs[0].producer() if root.inputs[0] is not None else None
    for variance, number in _both(total) if total is not None and is_op(total, "Add") else ():
        epsilon, mean = scalar(number, beside=variance), variance.producer()
        if epsilon is None or mean is None or mean.inputs[0] is None:
            continue
        base = _squared(mean.inputs[0])
        x, axes = (_deviation(base) if base is not None else None) or (None, ())
        if x is not None and _mean_axes(variance, mean.inputs[0]) == axes:
            return x, axes, epsilon
    return None


def _squared(value: ir.Value) -> ir.Value | None:
    node = value.producer()
    if node is None or not is_op(node, "Mul", "Pow"):
        return None
    base, other = node.inputs
    return base if (_exponent(node) == 2.0 if is_op(node, "Pow") else other is base) else None


def _exponent(power: ir.Node) -> float | None:
    return scalar(power.inputs[1], beside=power.inputs[0], kinds="fi")


def _deviation(value: ir.Value) -> tuple[ir.Value, tuple[int, ...]] | None:
    """``(x, axes)`` where the value is ``x - mean(x)``."""
    node = value.producer()
    if node is None or not is_op(node, "Sub"):
        return None
    x, mean = node.inputs
    if x is None or mean is None:
        return None
    axes = _mean_axes(mean, x)
    return (x, axes) if axes else None


def _mean_axes(mean: ir.Value, x: ir.Value) -> tuple[int, ...]:
    """The last axes of ``x`` that this is the mean over, with them kept; () if it is something else."""
    node = mean.producer()
    if node is None or not is_op(node, "ReduceMean") or node.inputs[0] is not x or x.shape is None:
        return ()
    numbers = array(node.inputs[1]) if len(node.inputs) > 1 else None
    if numbers is None or not int_attribute(node, "keepdims", 1):
        return ()
    rank = len(x.shape)
    axes = tuple(sorted(int(axis) % rank for axis in numbers))
    return axes if axes == tuple(range(rank - len(axes), rank)) else ()


def _both(node: ir.Node) -> Iterator[tuple[ir.Value, ir.Value]]:
    """Both orders of two operands."""
    first, second = node.inputs
    if first is not None and second is not None:
        yield first, second
        yield second, first
