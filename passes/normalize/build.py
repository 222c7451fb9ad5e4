"""Put new nodes in front of a node, and let one of them take its place."""

from __future__ import annotations

__all__ = ["before", "constant_before", "is_clamp", "move_behind", "replace_node", "set_input", "take_place"]

from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import ArrayLike

from ..placement import CLAMPS, is_pass_through
from ..values import is_op, replace_value, stamp, unused_name


def before(node: ir.Node, op_type: str, *inputs: ir.Value | None, name: str, **attributes: Any) -> ir.Value:
    """Insert a node in front of ``node``; its result is called after the first output of ``node``.

    Args:
        node: Where to insert.
        op_type: Operator of the standard domain.
        inputs: Of the new node.
        name: What is added to the name of that output.
        attributes: Of the new node.
    """
    first = node.outputs[0].name or node.op_type
    # The body of a function has no other names to mind: the inliner gives new ones.
    full = (
        unused_name(node.graph, f"{first}.{name}") if isinstance(node.graph, ir.Graph) else f"{first}.{name}"
    )
    new = ir.node(op_type, inputs, attributes, name=full)
    new.outputs[0].name = full
    assert node.graph is not None  # callers walk through one
    node.graph.insert_before(node, new)
    return new.outputs[0]


def constant_before(node: ir.Node, numbers: ArrayLike, *, name: str, dtype: Any = np.int64) -> ir.Value:
    """Insert a Constant in front of ``node``: also in a function, which has no initializers."""
    array = np.array(numbers, dtype)
    tensor = ir.tensor(array)
    value = before(node, "Constant", name=name, value=tensor)
    value.const_value, value.shape, value.type = tensor, ir.Shape(array.shape), ir.TensorType(tensor.dtype)
    return value


def set_input(node: ir.Node, index: int, value: ir.Value | None) -> None:
    """Let the node take ``value`` as this input; those between that it does not have are left out."""
    node.resize_inputs(max(index + 1, len(node.inputs)))
    node.replace_input_with(index, value)


def take_place(node: ir.Node, value: ir.Value) -> None:
    """Let ``value``, made in front of ``node``, take the place and the name of its only result."""
    replace_value(node.outputs[0], value)
    assert node.graph is not None  # callers walk through one
    node.graph.remove(node, safe=True)


def replace_node(old: ir.Node, new: ir.Node, pass_: ir.passes.PassBase) -> None:
    """Put a new node with one result in the place of one of the main graph."""
    assert old.graph is not None  # the caller iterates over one
    old.graph.insert_before(old, stamp(new, pass_))
    take_place(old, new.outputs[0])


def move_behind(graph: ir.Graph, node: ir.Node, move: ir.Node, label: str) -> None:
    """Let the users of the one result of a node take what ``move`` makes of it, which also gets its name.

    Args:
        graph: The graph.
        node: A node of it.
        move: A new node with one result; its first input is left open.
        label: What is added to the name of what is moved.
    """
    source, moved = node.outputs[0], move.outputs[0]
    graph.insert_after(node, move)
    source.replace_all_uses_with(moved, replace_graph_outputs=True)
    move.replace_input_with(0, source)
    moved.name, source.name, moved.type = source.name, None, source.type
    source.name = unused_name(graph, f"{moved.name}.{label}")
    move.name = f"{source.name}.{move.op_type.lower()}"


def is_clamp(node: ir.Node) -> bool:
    """Whether the node is a Relu, or a Clip with constant bounds."""
    return is_op(node, *CLAMPS) and is_pass_through(node)
