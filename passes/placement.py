"""What the operators of a normal graph mean to quantization: the facts behind ``place``."""

from __future__ import annotations

__all__ = ["PASS_THROUGH", "Placement"]

from collections.abc import Collection

import onnx_ir as ir

from .values import array, int_attribute, is_activation, is_op, only_user

MOVES = ("Flatten", "Reshape", "Transpose", "Squeeze", "Unsqueeze", "Identity")
CLAMPS = ("Relu", "Clip")
PASS_THROUGH = ("MaxPool", *MOVES, *CLAMPS)
"""Operators whose output shares the scale, zero point and bits of their first input."""

WEIGHTED = ("Conv", "Gemm")
POOLS = ("GlobalAveragePool", "AveragePool")

_NEVER_NEGATIVE = ("Relu", "Sigmoid", "HardSigmoid", "Softmax")
_NONNEGATIVE_IF_INPUTS = (*POOLS, "Add", "Clip", "Concat", "MaxPool", *MOVES)


class Placement:
    """One look at a graph.

    Attributes:
        weights: Initializers to quantize, in graph order, each once.
        quantized: Activations with a scale of their own, in graph order.
        ties: For each value that an Add joins to others: the name of the first of them.
    """

    def __init__(self, graph: ir.Graph) -> None:
        self._graph = graph
        self.weights: list[ir.Value] = []
        wanted: set[ir.Value] = set()
        joined: list[list[ir.Value]] = []
        for node in graph:
            if is_weighted(node):
                weight = node.inputs[1]
                if weight is not None and weight not in self.weights:
                    self.weights.append(weight)
            if not is_quantizable(node):
                continue
            operands = [value for value in node.inputs if is_activation(value)]
            if is_weighted(node):
                operands = operands[:1]
            sources = [self.owner(value) for value in operands]
            values = [value for value in sources if value is not None]
            if not is_op(node, "Gemm"):  # a Gemm can give float; others need codes, or ask for them
                values.append(chain_end(node))
            wanted.update(values)
            if is_op(node, "Add"):
                joined.append(values)
        self.quantized = [value for value in self._all_values() if value in wanted]
        self.ties = _tie(self.quantized, joined)

    def _all_values(self) -> list[ir.Value]:
        return [*self._graph.inputs, *(out for node in self._graph for out in node.outputs)]

    def owner(self, value: ir.Value | None) -> ir.Value | None:
        """The value whose scale this one shares; itself if it has its own, None for a constant."""
        while value is not None:
            node = value.producer()
            if node is None:
                return value if value.is_graph_input() else None
            if not is_pass_through(node) or is_absorbed(node):
                return value
            value = node.inputs[0]
        return None

    def is_nonnegative(self, value: ir.Value | None) -> bool:
        """Whether the operators alone make sure that the value is not negative."""
        node = value.producer() if value is not None else None
        if is_op(node, *_NEVER_NEGATIVE):
            return True
        if node is None or not is_op(node, *_NONNEGATIVE_IF_INPUTS):
            return False
        if is_op(node, "Clip"):
            low = array(node.inputs[1]) if len(node.inputs) > 1 else None
            if low is not None and low.item() >= 0:
                return True
        count = None if is_op(node, "Add", "Concat") else 1
        return all(self.is_nonnegative(source) for source in node.inputs[:count])

    def float_reason(self, node: ir.Node, quantized: Collection[str]) -> str | None:
        """Why the node computes in float under a plan of these values; None if it does not."""
        if not is_activation(node.outputs[0]) or not any(is_activation(value) for value in node.inputs):
            return None  # arithmetic on shapes and constants
        if is_op(node, *MOVES):
            return None
        if is_quantizable(node):
            return _inexact_reason(node)
        first = self.owner(node.outputs[0])
        if is_op(node, *PASS_THROUGH) and (is_pass_through(node) or is_absorbed(node)):
            in_codes = first is not None and first.name in quantized
            made_by = _chain_start(node)
            if in_codes and (made_by is None or is_quantizable(made_by)):
                return None
            return "its input is float"
        return _missing_form(node)


def is_weighted(node: ir.Node) -> bool:
    """Whether the node multiplies an activation by a constant weight."""
    return is_op(node, *WEIGHTED) and array(node.inputs[1]) is not None and is_activation(node.inputs[0])


def is_quantizable(node: ir.Node) -> bool:
    """Whether the node computes, and can do so on codes."""
    if is_weighted(node):
        return True
    if is_op(node, *POOLS):
        return is_activation(node.inputs[0])
    return is_op(node, "Add", "Concat") and all(is_activation(value) for value in node.inputs)


def is_pass_through(node: ir.Node) -> bool:
    """Whether the node's output holds codes of its first input."""
    if is_op(node, "MaxPool"):
        return len(node.outputs) == 1
    if is_op(node, "Clip"):
        return all(value is None or array(value) is not None for value in node.inputs[1:])
    return is_op(node, *PASS_THROUGH)


def is_absorbed(node: ir.Node) -> bool:
    """Whether the node is a Relu or Clip that belongs to the operator before it."""
    return is_op(node, *CLAMPS) and _chain_start(node) is not None


def chain_end(node: ir.Node) -> ir.Value:
    """The value behind the Relu and Clip nodes that belong to a node."""
    value = node.outputs[0]
    while (user := only_user(value)) is not None and is_absorbed(user) and user.inputs[0] is value:
        value = user.outputs[0]
    return value


def _chain_start(node: ir.Node) -> ir.Node | None:
    """The operator that a Relu or Clip belongs to: pools and Concat have none, nor has what only moves."""
    while is_op(node, *CLAMPS) and is_pass_through(node):
        source = node.inputs[0]
        producer = source.producer() if source is not None else None
        if source is None or producer is None or only_user(source) is not node:
            return None
        node = producer
    return None if is_pass_through(node) or is_op(node, *POOLS, "Concat") else node


def _tie(order: list[ir.Value], joined: list[list[ir.Value]]) -> dict[ir.Value, str]:
    """Merge the overlapping sets; name each after its first value."""
    leader: dict[ir.Value, ir.Value] = {}

    def find(value: ir.Value) -> ir.Value:
        while leader.setdefault(value, value) is not value:
            value = leader[value]
        return value

    rank = {value: index for index, value in enumerate(order)}
    for values in joined:
        first = min((find(value) for value in values), key=rank.__getitem__)
        for value in values:
            leader[find(value)] = first
    return {value: str(find(value).name) for value in leader}


def _inexact_reason(node: ir.Node) -> str | None:
    if not is_op(node, "AveragePool"):
        return None
    padded = "pads" in node.attributes and any(node.attributes["pads"].as_ints())
    padded = padded or "auto_pad" in node.attributes or bool(int_attribute(node, "ceil_mode", 0))
    if padded and not int_attribute(node, "count_include_pad", 0):
        return "its padding is not counted, so the divisor differs from place to place"
    return None


def _missing_form(node: ir.Node) -> str:
    if is_op(node, *WEIGHTED):
        return "its weight is not a constant"
    if is_op(node, "BatchNormalization"):
        return "no Conv or Gemm before it can take it in"
    if is_op(node, "Add"):
        return "one operand is a constant"
    return f"{node.op_type} has no integer form here"
