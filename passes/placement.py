"""What the operators of a normal graph mean to quantization: the facts behind ``place``."""

from __future__ import annotations

__all__ = ["CLAMPS", "MOVES", "PASS_THROUGH", "Placement"]

import onnx_ir as ir

from .values import all_values, array, is_activation, is_canonical_gemm, is_op, only_user

MOVES = ("Flatten", "Reshape", "Transpose", "Squeeze", "Unsqueeze", "Identity")
"""Operators that give the elements of their input in another shape or order."""
CLAMPS = ("Relu", "Clip")
PASS_THROUGH = ("MaxPool", *MOVES, *CLAMPS)
"""Operators whose output shares the scale, zero point and bits of their first input."""

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
        self.quantized = [value for value in all_values(graph) if value in wanted]
        self.ties = _tie(self.quantized, joined)

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


def is_weighted(node: ir.Node) -> bool:
    """Whether the node multiplies an activation by a constant weight, a Gemm in the canonical form."""
    weighted = is_op(node, "Conv") or is_canonical_gemm(node)
    return weighted and array(node.inputs[1]) is not None and is_activation(node.inputs[0])


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
