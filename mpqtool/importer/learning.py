"""Which constants of a file are weights. ONNX does not say it; this is the one place that decides."""

from __future__ import annotations

__all__ = ["learned_constants"]

from collections.abc import Mapping

import numpy as np
import onnx_ir as ir

from .codes import CODES
from .registry import Handler

_MASKED = -1e4  # what is added to hide something; exporters write -1e4, -1e9, -inf, the lowest float
_TABLE = 16  # fewer could be whole by chance, and are in many a test
_STEPS = frozenset({"Ceil", "Floor", "Round", "Sign"})
_PRODUCTS = frozenset({"Conv", "ConvTranspose", "Gemm", "MatMul"})
_REAL = CODES | {
    ir.DataType.FLOAT,
    ir.DataType.FLOAT16,
    ir.DataType.BFLOAT16,
    ir.DataType.DOUBLE,
    None,  # not inferred
}


def learned_constants(graph: ir.Graph, handlers: Mapping[ir.Node, Handler]) -> set[ir.Value]:
    """The values that become parameters, where they are constants.

    A constant learns as a weight of a layer (``Handler.learned``), or as an operand of arithmetic
    (``Handler.learned_arrays``); and what only moves numbers (``Handler.moved``) passes that on to what it
    moves. Its gradient must reach an output of the graph.

    Operands of arithmetic do not learn that are

    - a single number: it belongs to a formula, unless it is the bias of a layer with one output;
    - a mask, with an entry of -1e4 or below;
    - a table of 16 whole numbers or more, not only of -1, 0 and 1: a grid, anchors, strides;
    - what a graph input is divided by, or what is taken from it: its normalization.

    Args:
        graph: The graph.
        handlers: The handlers of its nodes; nodes without one are passed over.
    """
    has_gradient = set(graph.outputs)
    weights: set[ir.Value] = set()
    operands: set[ir.Value] = set()
    for node in reversed(graph):
        handler = handlers.get(node)
        if handler is None or not _passes_gradient(node, has_gradient):
            continue
        for index, value in enumerate(node.inputs):
            name = handler.input_name(index)
            if value is None or name is None or name in handler.known:
                continue
            has_gradient.add(value)
            outputs = set(node.outputs) if name in handler.moved else set()
            if name in handler.learned or _is_bias(node, value) or (weights & outputs and _is_array(value)):
                weights.add(value)
            elif operands & outputs or _is_operand(node, index, handler):
                operands.add(value)
    return weights | {value for value in operands if not _is_formula(value)}


def _passes_gradient(node: ir.Node, has_gradient: set[ir.Value]) -> bool:
    reached = any(output in has_gradient and output.dtype in _REAL for output in node.outputs)
    return reached and node.op_type not in _STEPS


def _is_array(value: ir.Value) -> bool:
    """Whether it is not a single number, which would only fill a tensor."""
    constant = ir.convenience.get_const_tensor(value)
    return constant is None or constant.size > 1


def _is_bias(node: ir.Node, value: ir.Value) -> bool:
    """Whether a layer's outputs are added to this list of numbers."""
    constant = ir.convenience.get_const_tensor(value)
    if node.op_type != "Add" or constant is None or len(constant.shape) == 0:
        return False
    makers = [operand.producer() for operand in node.inputs if operand is not None and operand is not value]
    return any(maker is not None and maker.op_type in _PRODUCTS for maker in makers) and constant.size == 1


def _is_operand(node: ir.Node, index: int, handler: Handler) -> bool:
    return handler.input_name(index) in handler.learned_arrays and not _normalizes_input(node, index)


def _normalizes_input(node: ir.Node, index: int) -> bool:
    """Whether this is what a graph input is normalized by, as in ``(image - mean) / std``."""
    if node.op_type not in ("Sub", "Div") or index == 0:
        return False
    other = node.inputs[0]
    assert other is not None  # both must have it
    maker = other.producer()
    return other.is_graph_input() or (maker is not None and _normalizes_input(maker, 1))


def _is_formula(value: ir.Value) -> bool:
    """Whether the numbers of a constant are none that training found."""
    constant = ir.convenience.get_const_tensor(value)
    if constant is None or constant.size <= 1 or constant.dtype not in _REAL:
        return constant is not None
    numbers = constant.numpy().astype(np.float32)
    whole = bool((numbers == np.rint(numbers)).all())
    table = whole and numbers.size >= _TABLE and bool(np.abs(numbers).max() > 1)
    return bool(numbers.min() <= _MASKED) or table
