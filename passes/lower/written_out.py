"""Write an operator out in several nodes that together compute its codes exactly."""

from __future__ import annotations

__all__ = ["WrittenOut"]

import dataclasses

import numpy as np
import onnx_ir as ir

from .. import metadata
from ..constants import constant
from ..values import unused_name


@dataclasses.dataclass
class WrittenOut:
    """Nodes in the place of an operator, one behind the other.

    Attributes:
        graph: Where they are to go.
        node: The operator they stand for.
        nodes: What there is so far.
    """

    graph: ir.Graph
    node: ir.Node
    nodes: list[ir.Node] = dataclasses.field(default_factory=list)

    def add(
        self, op_type: str, label: str, inputs: list[ir.Value], dtype: ir.DataType, **attributes: int
    ) -> ir.Value:
        """One more node; its result, which is named after that of the operator and the label."""
        made = ir.node(op_type, inputs, attributes, metadata_props={metadata.EXACT: self.node.op_type})
        value = made.outputs[0]
        value.name = unused_name(self.graph, f"{self.node.outputs[0].name}.{label}")
        value.type = ir.TensorType(dtype)
        made.name = value.name
        self.nodes.append(made)
        return value

    def cast(self, label: str, value: ir.Value, dtype: ir.DataType) -> ir.Value:
        """A Cast."""
        return self.add("Cast", label, [value], dtype, to=dtype.value)

    def look_up(self, codes: ir.Value, table: ir.Value, like: ir.Value) -> ir.Value:
        """``table[codes]``, flat; the shape is left to ``reshape``.

        By GatherElements, which is fast on flat tensors alone; Gather takes 8 times as long.

        Args:
            codes: uint8 or int32.
            table: ``(256,)``.
            like: What has the shape of the codes.
        """
        if not _is_flat(like):
            everything = constant(self.graph, "shape.flat", np.array([-1]))
            codes = self.add("Reshape", "flat", [codes, everything], _type(codes))
        if _type(codes) is ir.DataType.UINT8:
            codes = self.cast("index", codes, ir.DataType.INT32)
        return self.add("GatherElements", "found", [table, codes], _type(table))

    def reshape(self, flat: ir.Value, like: ir.Value) -> ir.Value:
        """What was looked up, in the shape of ``like``: a constant one if at most one size is unknown."""
        if _is_flat(like):
            return flat
        sizes = [-1, -1] if like.shape is None else [s if isinstance(s, int) else -1 for s in like.shape]
        if sizes.count(-1) > 1 or 0 in sizes:
            shape = self.add("Shape", "shape", [like], ir.DataType.INT64)
        else:
            shape = constant(self.graph, "shape." + "x".join(map(str, sizes)), np.array(sizes))
        return self.add("Reshape", "shaped", [flat, shape], _type(flat))


def _is_flat(value: ir.Value) -> bool:
    return value.shape is not None and len(value.shape) == 1


def _type(value: ir.Value) -> ir.DataType:
    assert value.dtype is not None  # what is made here has one, and so have codes and constants
    return value.dtype
