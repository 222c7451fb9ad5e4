"""Small questions about values of a graph, and small changes, that many passes share."""

from __future__ import annotations

__all__ = [
    "add_initializer",
    "array",
    "float_attribute",
    "int_attribute",
    "is_activation",
    "is_op",
    "only_user",
    "replace_value",
    "set_array",
    "stamp",
    "unused_name",
]

from typing import Any

import onnx_ir as ir
from numpy.typing import NDArray


def array(value: ir.Value | None) -> NDArray[Any] | None:
    """The numbers of an initializer, or None if the value is not one (or could be fed by the caller)."""
    if value is None or value.const_value is None or value.is_graph_input():
        return None
    numbers: NDArray[Any] = value.const_value.numpy()
    return numbers


def set_array(initializer: ir.Value, numbers: NDArray[Any]) -> None:
    """Give an initializer other numbers, type and shape; its name stays."""
    tensor = ir.tensor(numbers, name=initializer.name)
    initializer.const_value = tensor
    initializer.shape = ir.Shape(numbers.shape)
    initializer.type = ir.TensorType(tensor.dtype)


def add_initializer(graph: ir.Graph, name: str, numbers: NDArray[Any]) -> ir.Value:
    """A new initializer, called ``name`` if that is free."""
    value = ir.Value(name=unused_name(graph, name))
    set_array(value, numbers)
    graph.register_initializer(value)
    return value


def unused_name(graph: ir.Graph, name: str) -> str:
    """``name``, or ``name_1``, ``name_2``, ... if a value of the graph has it already."""
    taken = {value.name for value in graph.inputs} | set(graph.initializers)
    taken |= {output.name for node in graph for output in node.outputs}
    candidate, count = name, 0
    while candidate in taken:
        count += 1
        candidate = f"{name}_{count}"
    return candidate


def is_op(node: ir.Node | None, *op_types: str) -> bool:
    """Whether the node is one of these operators of the standard domain."""
    return node is not None and node.domain == "" and node.op_type in op_types


def is_activation(value: ir.Value | None) -> bool:
    """Whether the value is float data that depends on a graph input, as far as types are known."""
    if value is None or value.is_initializer():
        return False
    return value.dtype is None or value.dtype is ir.DataType.FLOAT


def only_user(value: ir.Value) -> ir.Node | None:
    """The node that uses the value, if it is used once and is not a graph output."""
    uses = tuple(value.uses())
    return uses[0].node if len(uses) == 1 and not value.is_graph_output() else None


def replace_value(old: ir.Value, new: ir.Value) -> None:
    """Let ``new``, the output of a node, take the place and the name of ``old``, whose node goes away."""
    name = old.name
    new.shape, new.type = old.shape, old.type
    old.replace_all_uses_with(new, replace_graph_outputs=True)
    old.name = None
    new.name = name


def int_attribute(node: ir.Node, name: str, default: int) -> int:
    """An integer attribute, or its default."""
    attribute = node.attributes.get(name)
    return default if attribute is None else attribute.as_int()


def float_attribute(node: ir.Node, name: str, default: float) -> float:
    """A float attribute, or its default."""
    attribute = node.attributes.get(name)
    return default if attribute is None else attribute.as_float()


def stamp(node: ir.Node, pass_: ir.passes.PassBase) -> ir.Node:
    """Write into a new node which pass made it."""
    node.metadata_props["mpqtool.pass"] = type(pass_).__name__
    return node
