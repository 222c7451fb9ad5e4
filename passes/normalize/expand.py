"""Say operators that opset 21 does not have with operators that it has."""

from __future__ import annotations

__all__ = ["REWRITES", "function_body"]

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir

from ..errors import ModelError
from ..values import array, int_attribute
from .build import before, constant_before, take_place


def function_body(node: ir.Node, schema: Any) -> ir.Function | None:
    """The function that ONNX defines the operator as, for this node; None if it is not defined as one.

    Attributes that the node leaves out are written into it, as the function has no defaults.

    Args:
        node: A node of the operator.
        schema: The ``onnx.defs.OpSchema`` of the node; the type stubs of onnx do not know its functions.
    """
    for name, attribute in schema.attributes.items():
        if name not in node.attributes and attribute.default_value.type:
            node.attributes[name] = ir.serde.deserialize_attribute(attribute.default_value)
    proto = onnx.FunctionProto()
    if schema.has_function:
        proto.CopyFrom(schema.function_body)
    elif schema.has_context_dependent_function:
        version = max(schema.context_dependent_function_opset_versions)
        types = [_type(value) for value in node.inputs]
        call = ir.to_proto(node).SerializeToString()
        proto.ParseFromString(schema.get_context_dependent_function_with_opset_version(version, call, types))
    if not proto.node:
        return None
    made = {name for part in proto.node for name in part.output}
    for name in proto.output:  # what the node leaves out is not computed, but the inliner asks for it
        if name not in made:
            proto.node.append(onnx.NodeProto(op_type="Identity", input=proto.output[:1], output=[name]))
    return ir.serde.deserialize_function(proto)


def _type(value: ir.Value | None) -> bytes:
    if value is None or value.type is None:
        return b""
    proto: onnx.ValueInfoProto = ir.to_proto(value)
    return bytes(proto.type.SerializeToString())


def _cum_prod(node: ir.Node) -> None:
    """``y[i] = prod(x[j] for j <= i)``: the product of each row of ``where(j <= i, x[j], 1)``.

    Needs the square of the length of the axis in memory.
    """
    x, where = node.inputs[0], array(node.inputs[1])
    rank = len(x.shape) if x is not None and x.shape is not None else None
    if x is None or x.dtype is None or rank is None or (rank > 1 and where is None):
        raise ModelError("its axis is not constant, or the shape of its input is not known")
    axis = 0 if where is None else int(where) % rank
    length = before(node, "Shape", x, name="length", start=axis, end=axis + 1)
    square = before(node, "Concat", length, length, name="square", axis=0)
    ones = before(node, "ConstantOfShape", square, name="ones", value=ir.tensor(np.array([1.0], np.float32)))
    reverse, exclusive = int_attribute(node, "reverse", 0), int_attribute(node, "exclusive", 0)
    offset = (1 if reverse else -1) if exclusive else 0
    diagonal = constant_before(node, offset, name="diagonal")
    mask = before(node, "Trilu", ones, diagonal, name="triangle", upper=reverse)
    mask = before(node, "Cast", mask, name="mask", to=ir.DataType.BOOL.value)
    if axis + 1 < rank:
        mask = before(
            node,
            "Unsqueeze",
            mask,
            constant_before(node, [*range(2, rank - axis + 1)], name="ends"),
            name="wide",
        )
    at = constant_before(node, [axis], name="at")
    rows = before(node, "Unsqueeze", x, at, name="rows")
    one = constant_before(node, 1, name="one", dtype=x.dtype.numpy())
    kept = before(node, "Where", mask, rows, one, name="factors")
    behind = constant_before(node, [axis + 1], name="behind")
    take_place(node, before(node, "ReduceProd", kept, behind, name="product", keepdims=0))


def _tensor_scatter(node: ir.Node) -> None:
    """``cache[b, ..., start[b] + s, ...] = update[b, ..., s, ...]``, modulo the length where circular."""
    cache, update, *rest = node.inputs
    rank = len(cache.shape) if cache is not None and cache.shape is not None else None
    if update is None or rank is None:
        raise ModelError("the shape of its input is not known")
    axis = int_attribute(node, "axis", -2) % rank
    zero, one = (constant_before(node, number, name="number") for number in (0, 1))
    length = before(node, "Shape", update, name="steps", start=axis, end=axis + 1)
    count = before(node, "Squeeze", length, name="count")
    places = before(node, "Range", zero, count, one, name="places")
    if axis + 1 < rank:
        ends = constant_before(node, [*range(1, rank - axis)], name="ends")
        places = before(node, "Unsqueeze", places, ends, name="column")
    if rest and rest[0] is not None:
        ends = constant_before(node, [*range(1, rank)], name="ends")
        places = before(
            node, "Add", places, before(node, "Unsqueeze", rest[0], ends, name="starts"), name="at"
        )
    if "mode" in node.attributes and node.attributes["mode"].as_string() == "circular":
        size = before(node, "Shape", cache, name="size", start=axis, end=axis + 1)
        places = before(node, "Mod", places, size, name="round")
    shape = before(node, "Shape", update, name="shape")
    indices = before(node, "Expand", places, shape, name="indices")
    take_place(node, before(node, "ScatterElements", cache, indices, update, name="result", axis=axis))


REWRITES: dict[str, Callable[[ir.Node], None]] = {"CumProd": _cum_prod, "TensorScatter": _tensor_scatter}
"""By operator: those that ONNX does not define as a function, but that can be said."""
