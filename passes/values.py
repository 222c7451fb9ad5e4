"""Small questions about values of a graph, and small changes, that many passes share."""

from __future__ import annotations

__all__ = [
    "add_initializer",
    "all_values",
    "array",
    "as_row",
    "bypass",
    "float_attribute",
    "gathered_names",
    "int_attribute",
    "is_activation",
    "is_canonical_gemm",
    "is_op",
    "names",
    "numbered",
    "only_user",
    "own",
    "replace_value",
    "set_array",
    "stamp",
    "take_name",
    "taken_names",
    "text_attribute",
    "unused_name",
]

import contextlib
import itertools
import logging
from collections.abc import Collection, Iterator, Set
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

logger = logging.getLogger(__name__)

_NAMES = "mpqtool.names"


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


def own(
    graph: ir.Graph, value: ir.Value, numbers: NDArray[Any], *, users: Collection[ir.Node], copy: str
) -> ir.Value:
    """The initializer with these numbers: edited if one of ``users`` uses it, once, else a copy.

    A node that takes the value twice, like ``Gemm(x, w, w)``, would get both changed.

    Args:
        graph: Where a copy goes.
        value: The initializer.
        numbers: What it is to hold.
        users: The nodes that are changed, or go away, with it.
        copy: Name of the copy.
    """
    uses = tuple(value.uses())
    alone = len(uses) <= 1 and {use.node for use in uses} <= set(users)
    if alone and value.is_initializer() and not value.is_graph_output():
        set_array(value, numbers)
        return value
    logger.info("Copied %s as %s: other nodes use it too", value.name, copy)
    return add_initializer(graph, copy, numbers)


def as_row(numbers: NDArray[Any] | None, kernels: int, *, rank: int) -> NDArray[Any] | None:
    """``[kernels]`` from one float32 number or ``[1, kernels, 1, ...]`` of this rank; None from the rest."""
    if numbers is None or numbers.dtype != np.float32 or numbers.ndim > rank:
        return None
    padded = (1,) * (rank - numbers.ndim) + numbers.shape
    if numbers.size != 1 and padded != (1, kernels, *[1] * (rank - 2)):
        return None
    return np.ascontiguousarray(np.broadcast_to(numbers.reshape(-1), (kernels,)))


def unused_name(graph: ir.Graph, name: str) -> str:
    """``name``, or ``name_1``, ``name_2``, ... if a value of the graph has it already."""
    taken = taken_names(graph)
    unused = next(candidate for candidate in numbered(name) if candidate not in taken)
    take_name(graph, unused)
    return unused


def taken_names(graph: ir.Graph) -> Set[str]:
    """The names that a new value cannot have; in a block of ``gathered_names``, those of that block."""
    gathered: set[str] | None = graph.meta.get(_NAMES)
    if gathered is None:
        gathered = names(graph)
        if _NAMES in graph.meta:
            graph.meta[_NAMES] = gathered
    return gathered


def take_name(graph: ir.Graph, name: str) -> None:
    """Say that a value is called so, to a block of ``gathered_names``, if there is one."""
    gathered: set[str] | None = graph.meta.get(_NAMES)
    if gathered is not None:
        gathered.add(name)


@contextlib.contextmanager
def gathered_names(graph: ir.Graph) -> Iterator[None]:
    """Let ``unused_name`` look through the graph once in this block, and not for each new name.

    Values that get a name in another way within the block are not seen, but where ``take_name`` says so. A
    block within another goes on with the names of that.
    """
    if _NAMES in graph.meta:
        yield
        return
    graph.meta[_NAMES] = None  # gathered when somebody asks
    try:
        yield
    finally:
        del graph.meta[_NAMES]


def names(graph: ir.Graph) -> set[str]:
    """The names of all values of a graph, initializers too, and of the graphs in it, which must differ."""
    found = {str(value.name) for node in graph.all_nodes() for value in node.outputs}
    for part in (graph, *graph.subgraphs()):
        found.update(part.initializers, (str(value.name) for value in part.inputs))
    return found


def numbered(name: str) -> Iterator[str]:
    """``name``, ``name_1``, ``name_2``, ... without end."""
    yield name
    yield from (f"{name}_{count}" for count in itertools.count(1))


def all_values(graph: ir.Graph) -> list[ir.Value]:
    """What goes into a graph and what its nodes make, in this order."""
    return [*graph.inputs, *(value for node in graph for value in node.outputs)]


def is_op(node: ir.Node | None, *op_types: str) -> bool:
    """Whether the node is one of these operators of the standard domain."""
    return node is not None and node.domain == "" and node.op_type in op_types


def is_canonical_gemm(node: ir.Node | None) -> bool:
    """Whether the node is a Gemm that computes ``x @ w.T + bias``."""
    return (
        is_op(node, "Gemm")
        and node is not None
        and not int_attribute(node, "transA", 0)
        and int_attribute(node, "transB", 0) == 1
        and float_attribute(node, "alpha", 1.0) == 1.0
        and float_attribute(node, "beta", 1.0) == 1.0
    )


def is_activation(value: ir.Value | None) -> bool:
    """Whether the value is float data that depends on a graph input, as far as types are known."""
    if value is None or value.is_initializer():
        return False
    return value.dtype is None or value.dtype is ir.DataType.FLOAT


def only_user(value: ir.Value) -> ir.Node | None:
    """The node that uses the value, if it is used once, in its own graph, and is not a graph output."""
    uses = tuple(value.uses())
    if len(uses) != 1 or value.is_graph_output() or uses[0].node.graph is not value.graph:
        return None
    return uses[0].node


def replace_value(old: ir.Value, new: ir.Value) -> None:
    """Let ``new``, the output of a node, take the place and the name of ``old``, whose node goes away."""
    name = old.name
    new.shape, new.type = old.shape, old.type
    old.replace_all_uses_with(new, replace_graph_outputs=True)
    old.name = None
    new.name = name


def bypass(node: ir.Node) -> bool:
    """Remove a node whose one result is its first input; False where a graph output keeps it in place.

    It stays between a graph input, a constant or another graph output, and a graph output.
    """
    x, out = node.inputs[0], node.outputs[0]
    assert x is not None  # callers have looked
    if not out.is_graph_output():
        out.replace_all_uses_with(x)
    elif x.producer() is None or x.is_graph_output():
        return False
    else:
        replace_value(out, x)
    assert node.graph is not None  # callers iterate over one
    node.graph.remove(node, safe=True)
    return True


def int_attribute(node: ir.Node, name: str, default: int) -> int:
    """An integer attribute, or its default."""
    attribute = node.attributes.get(name)
    return default if attribute is None else attribute.as_int()


def float_attribute(node: ir.Node, name: str, default: float) -> float:
    """A float attribute, or its default."""
    attribute = node.attributes.get(name)
    return default if attribute is None else attribute.as_float()


def text_attribute(node: ir.Node, name: str, default: str) -> str:
    """A text attribute, or its default."""
    attribute = node.attributes.get(name)
    return default if attribute is None else attribute.as_string()


def stamp(node: ir.Node, pass_: ir.passes.PassBase) -> ir.Node:
    """Write into a new node which pass made it."""
    node.metadata_props["mpqtool.pass"] = type(pass_).__name__
    return node
