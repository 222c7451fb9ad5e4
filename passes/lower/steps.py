"""Write out arithmetic on codes, one operator a step."""

from __future__ import annotations

__all__ = ["Steps"]

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from .. import metadata
from ..constants import constant
from ..values import unused_name
from .build import shaped

_INT32 = ir.DataType.INT32


class Steps:
    """Collects the nodes that are to stand in the place of one node.

    Args:
        graph: Where constants go.
        node: The node.

    Attributes:
        nodes: What was written so far.
    """

    def __init__(self, graph: ir.Graph, node: ir.Node) -> None:
        self.graph, self.node = graph, node
        self.nodes: list[ir.Node] = []

    def add(
        self, op: str, inputs: Sequence[ir.Value], dtype: ir.DataType, *, label: str, **attributes: Any
    ) -> ir.Value:
        """Write one operator; its result is called after that of the node and ``label``."""
        made = ir.node(op, inputs, attributes, metadata_props={metadata.EXACT: self.node.op_type})
        self.nodes.append(made)
        name = unused_name(self.graph, f"{self.node.outputs[0].name}.{label}")
        made.name = name
        return shaped(made.outputs[0], name, dtype, self.node.outputs[0])

    def number(self, name: str, numbers: NDArray[Any] | np.generic) -> ir.Value:
        """A constant."""
        return constant(self.graph, name, numbers)

    def looked_up(
        self, index: ir.Value, table: ir.Value, like: ir.Value, *, cast: ir.DataType | None = None
    ) -> ir.Value:
        """``table[index]`` of the shape of ``like``.

        GatherElements of a flat index is seven times as fast as Gather.
        """
        assert table.dtype is not None  # constants have types
        flat_shape = constant(self.graph, "shape.flat", np.array([-1]))
        flat = self.add("Reshape", [index, flat_shape], index.dtype or _INT32, label="flat")
        flat.shape = None
        if index.dtype is not _INT32:
            flat = self.add("Cast", [flat], _INT32, label="index", to=_INT32.value)
            flat.shape = None
        found = self.add("GatherElements", [table, flat], table.dtype, label="found", axis=0)
        found.shape = None
        if cast is not None:
            found = self.add("Cast", [found], cast, label="narrow", to=cast.value)
            found.shape = None
        shape = self.add("Shape", [like], ir.DataType.INT64, label="shape")
        shape.shape = None
        return self.add("Reshape", [found, shape], cast or table.dtype, label="looked_up")
