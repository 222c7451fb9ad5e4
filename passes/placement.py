"""What the operators of a normal graph mean to quantization: the facts behind ``place``."""

from __future__ import annotations

__all__ = [
    "CLAMPS",
    "GATES",
    "MOVES",
    "PASS_THROUGH",
    "TABLES",
    "Placement",
    "factor_of",
    "is_pass_through",
    "is_table",
    "moved_input",
]

import numpy as np
import onnx_ir as ir

from .layers import is_layer
from .metadata import DOMAIN
from .values import (
    all_values,
    array,
    int_attribute,
    is_activation,
    is_op,
    only_user,
    text_attribute,
)

MOVES = (
    "DepthToSpace", "Expand", "Flatten", "Gather", "Identity", "Pad", "Reshape", "Resize", "Slice",
    "SpaceToDepth", "Split", "Squeeze", "Tile", "Transpose", "Unsqueeze",
)  # fmt: skip
"""Operators that give elements of their input in another shape, order or number."""
CLAMPS = ("Relu", "Clip")
PASS_THROUGH = ("MaxPool", *MOVES, *CLAMPS)
"""Operators whose output shares the scale, zero point and bits of their first input."""

POOLS = ("GlobalAveragePool", "AveragePool")

GATES = ("HardSigmoid", "Sigmoid")
"""Functions whose results, 0 to 1, are multiplied with others."""

TABLES = (
    "Celu", "Elu", "Gelu", "HardSigmoid", "HardSwish", "LeakyRelu", "Mish", "Selu", "Sigmoid", "Silu",
    "Softplus", "Softsign", "Tanh",
)  # fmt: skip
"""Functions of one number: on codes, a table of them."""

_NEVER_NEGATIVE = (
    "Abs", "Exp", "HardSigmoid", "ReduceL1", "ReduceL2", "ReduceSumSquare", "Relu", "Sigmoid", "Softmax",
    "Softplus", "Sqrt",
)  # fmt: skip
_NONNEGATIVE_IF_INPUTS = (*POOLS, "Add", "Clip", "Concat", "MatMul", "MaxPool", "Mul", *MOVES)


class Placement:
    """One look at a graph.

    Attributes:
        weights: Initializers to quantize, in graph order, each once.
        quantized: Activations with a scale of their own, in graph order.
        multiplied: Those of ``quantized`` that a layer, or another activation, is multiplied with in a sum
            of products, and the operators that do so. The width of the others saves nothing.
    """

    def __init__(self, graph: ir.Graph) -> None:
        self.weights: list[ir.Value] = []
        self.multiplied: dict[ir.Value, set[ir.Node]] = {}
        wanted: set[ir.Value] = set()
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
            if is_weighted(node) or is_op(node, "MatMul"):
                for value in values:
                    self.multiplied.setdefault(value, set()).add(node)
            if not is_op(node, "Gemm"):  # a Gemm can give float; others need codes, or ask for them
                values.append(chain_end(node))
            wanted.update(values)
        self.quantized = [value for value in all_values(graph) if value in wanted]

    def owner(self, value: ir.Value | None) -> ir.Value | None:
        """The value whose codes this one shares; itself if it has its own, None for a constant."""
        while value is not None:
            node = value.producer()
            if node is None:
                return value if value.is_graph_input() else None
            source = moved_input(node)
            if source is None:
                return value
            value = source
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
        if is_op(node, "Mul") and node.inputs[0] is node.inputs[1]:
            return True
        if factor_of(node) is not None:
            return self.is_nonnegative(moved_input(node))
        count = None if is_op(node, "Add", "Concat", "MatMul", "Mul") else 1
        return all(self.is_nonnegative(source) for source in node.inputs[:count])


def is_weighted(node: ir.Node) -> bool:
    """Whether the node multiplies an activation by a constant weight, a Gemm in the canonical form."""
    return is_layer(node) and array(node.inputs[1]) is not None and is_activation(node.inputs[0])


def is_quantizable(node: ir.Node) -> bool:
    """Whether the node computes, and can do so on codes.

    What only shapes a result of the network, as a last Softmax does, stays float: codes would cost
    precision and save nothing.
    """
    if is_weighted(node):
        return True
    if is_op(node, *POOLS):
        return is_activation(node.inputs[0])
    if is_op(node, "Softmax") or is_table(node):
        return is_activation(node.inputs[0]) and _is_wanted(node.outputs[0])
    if not is_op(node, "Add", "Concat", "MatMul", "Mul", "Sub"):
        return False
    if _is_shift(node):
        return _is_wanted(node.outputs[0])
    activations = all(is_activation(value) for value in node.inputs)
    return activations and (not is_op(node, "Mul") or _is_wanted(node.outputs[0]))


def is_table(node: ir.Node | None) -> bool:
    """Whether the node is a function of one number, element by element."""
    if node is None or node.op_type not in TABLES:
        return False
    return node.domain == (DOMAIN if node.op_type == "Silu" else "")


def _is_wanted(value: ir.Value) -> bool:
    """Whether an operator that sums codes uses the value, or what is made of it."""
    seen, waiting = set(), [value]
    while waiting:
        for use in waiting.pop().uses():
            node = use.node
            soft = is_op(node, "Softmax", "Mul") or is_table(node) or _is_shift(node)
            soft = soft or is_pass_through(node) or factor_of(node) is not None
            if not soft and is_quantizable(node):
                return True
            if soft and node not in seen:
                seen.add(node)
                waiting.extend(node.outputs)
    return False


def _is_shift(node: ir.Node) -> bool:
    """Whether the node adds a constant to an activation, or takes one from the other."""
    constants = [numbers for value in node.inputs if (numbers := array(value)) is not None]
    return (
        is_op(node, "Add", "Sub")
        and [numbers.dtype for numbers in constants] == [np.float32]
        and any(is_activation(value) for value in node.inputs)
    )


def factor_of(node: ir.Node) -> np.float32 | None:
    """The one positive number that a Mul or Div multiplies an activation by; None where it does not.

    What it does to real values, it does to their scale: the codes stay. Div is a Mul by the inverse.
    """
    if not is_op(node, "Mul", "Div"):
        return None
    x, other = node.inputs if is_op(node, "Div") or array(node.inputs[1]) is not None else node.inputs[::-1]
    numbers = array(other)
    if numbers is None or numbers.size != 1 or numbers.dtype != np.float32 or not is_activation(x):
        return None
    if numbers.ndim > (0 if x is None or x.shape is None else len(x.shape)):  # it would add axes
        return None
    number = np.float32(numbers.item())
    factor = np.float32(1) / number if is_op(node, "Div") and number else number
    return factor if 0 < factor < np.inf else None


def moved_input(node: ir.Node) -> ir.Value | None:
    """The value whose codes a node hands on; None if it makes new ones."""
    if factor_of(node) is not None:
        return next(value for value in node.inputs if is_activation(value))
    return node.inputs[0] if is_pass_through(node) and not is_absorbed(node) else None


def is_pass_through(node: ir.Node) -> bool:
    """Whether the node's outputs hold codes of its first input."""
    if is_op(node, "MaxPool"):
        return len(node.outputs) == 1
    if is_op(node, "Clip"):
        return all(value is None or array(value) is not None for value in node.inputs[1:])
    if is_op(node, "Pad"):
        return text_attribute(node, "mode", "constant") != "constant" or _pads_with_zero(node)
    if is_op(node, "Resize"):
        nearest = text_attribute(node, "mode", "nearest") == "nearest"
        crop = text_attribute(node, "coordinate_transformation_mode", "half_pixel") == "tf_crop_and_resize"
        return nearest and not crop and not int_attribute(node, "antialias", 0)
    return is_op(node, *PASS_THROUGH)


def _pads_with_zero(node: ir.Node) -> bool:
    if len(node.inputs) < 3 or node.inputs[2] is None:
        return True
    padding = array(node.inputs[2])
    return padding is not None and not padding.any()


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
    return None if moved_input(node) is not None or is_op(node, *POOLS, "Concat") else node
