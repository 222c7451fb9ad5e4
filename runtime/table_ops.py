"""Operators that tables and Softmax of integer graphs are made of, for ``reference.py``."""

from __future__ import annotations

__all__ = ["OPERATORS"]

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from mpqtool.passes import arithmetic, functions
from mpqtool.passes.lower.build import CONTRIB
from mpqtool.passes.values import int_attribute

Array = NDArray[Any]
NodeRun = Callable[[ir.Node, list[Any]], Array]


def _gather_elements(node: ir.Node, inputs: list[Any]) -> Array:
    data, index = inputs
    return np.take_along_axis(data, index, int_attribute(node, "axis", 0))


def _shape(node: ir.Node, inputs: list[Any]) -> Array:
    sizes = inputs[0].shape[int_attribute(node, "start", 0) : int_attribute(node, "end", inputs[0].ndim)]
    return np.array(sizes, np.int64)


def _reduce(function: Callable[..., Array]) -> NodeRun:
    def run(node: ir.Node, inputs: list[Any]) -> Array:
        x, axes = (*inputs, None)[:2]
        over: tuple[int, ...] | None = None if axes is None else tuple(int(axis) for axis in axes)
        if not over:
            over = () if int_attribute(node, "noop_with_empty_axes", 0) else None
        return function(x, axis=over, keepdims=bool(int_attribute(node, "keepdims", 1)))

    return run


def _global_max_pool(node: ir.Node, inputs: list[Any]) -> Array:
    """Over all axes behind the channels; that of ``onnx.reference`` is right for two of them only."""
    largest: Array = inputs[0].max(axis=tuple(range(2, inputs[0].ndim)), keepdims=True)
    return largest


def _sum(x: Array, **options: Any) -> Array:
    total: Array = np.sum(x, dtype=x.dtype, **options)
    return total


def _function(op_type: str) -> NodeRun:
    """QLinearSigmoid and QLinearLeakyRelu: tables, as ONNX Runtime makes them when it loads a file."""

    def run(node: ir.Node, inputs: list[Any]) -> Array:
        x, (x_scale, x_zero, y_scale, y_zero) = inputs[0], (numbers.item() for numbers in inputs[1:])
        attributes = {name: attribute.value for name, attribute in node.attributes.items()}
        reals = functions.outputs(op_type, x_scale, x_zero, **attributes)
        table = arithmetic.quantize(reals, y_scale, y_zero, 0, 255)
        codes: Array = table[x]
        return codes

    return run


OPERATORS: dict[tuple[str, str], NodeRun] = {
    ("", "GatherElements"): _gather_elements,
    ("", "GlobalMaxPool"): _global_max_pool,
    ("", "ReduceMax"): _reduce(np.max),
    ("", "ReduceSum"): _reduce(_sum),
    ("", "Shape"): _shape,
    (CONTRIB, "QLinearLeakyRelu"): _function("LeakyRelu"),
    (CONTRIB, "QLinearSigmoid"): _function("Sigmoid"),
}
"""(domain, operator) -> function of the node and its input arrays, giving the first output."""
