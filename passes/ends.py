"""The first and the last layers of a network, whose widths cost the most accuracy and save the least."""

from __future__ import annotations

__all__ = ["end_layers", "last_layers"]

import onnx_ir as ir

from .placement import GATES, PASS_THROUGH, is_weighted
from .values import array, is_activation, is_op

_OF_THE_FIRST = (*PASS_THROUGH, "AveragePool", "BatchNormalization", "Cast")
_OF_ALL = ("Add", "Concat", "Div", "Mul", "Sub")


def end_layers(graph: ir.Graph) -> frozenset[ir.Node]:
    """The layers next to what goes into a network, and to what comes out.

    - First: the input is a graph input, perhaps cast, moved, pooled, clamped, joined with another one, or
      with constants added, taken off or multiplied, as where the network normalizes its input itself.
    - Last: a graph output depends on the result and on no other layer behind it. Nodes between are of any
      kind, so the layers of both branches of a last sum are, and those of every head. What a result is
      used for as a gate (``Mul`` by a Sigmoid), or for its shape, does not count: the layers of a
      squeeze-and-excitation block never are.

    A network of one layer has one, which is both.
    """
    prepared = _prepared(graph)
    first = frozenset(node for node in graph if is_weighted(node) and node.inputs[0] in prepared)
    return first | last_layers(graph)


def _prepared(graph: ir.Graph) -> set[ir.Value | None]:
    """The graph inputs and what is made of them before any layer."""
    found: set[ir.Value | None] = set(graph.inputs)
    for node in graph:
        sources = list(node.inputs[:1]) if is_op(node, *_OF_THE_FIRST) else []
        if is_op(node, *_OF_ALL):
            sources = [value for value in node.inputs if array(value) is None]
        if sources and all(source in found for source in sources):
            found.update(node.outputs)
    return found


def last_layers(graph: ir.Graph) -> frozenset[ir.Node]:
    """The layers next to what comes out of a network: the second half of ``end_layers``."""
    found, seen, waiting = set[ir.Node](), set[ir.Node](), list(graph.outputs)
    while waiting:
        node = waiting.pop().producer()
        if node is None or node in seen:
            continue
        seen.add(node)
        if is_weighted(node):
            found.add(node)
        elif not is_op(node, "Shape", "Size"):
            waiting.extend(value for value in node.inputs if value is not None and not _gates(node, value))
    return frozenset(found)


def _gates(node: ir.Node, value: ir.Value) -> bool:
    """Whether a product takes the value as the gate of something else; two gates are two probabilities."""
    if not is_op(node, "Mul") or not is_op(value.producer(), *GATES):
        return False
    others = [other for other in node.inputs if other is not value]
    return any(is_activation(other) and not is_op(other.producer(), *GATES) for other in others if other)
