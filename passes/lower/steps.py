"""Write an operator out in several nodes that together compute its codes exactly, one a step."""

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

_INT32 = ir.DataType.INT32


class Steps:
    """Collects the nodes that are to stand in the place of one node.

    Args:
        graph: Where they, and their constants, are to go.
        node: The node.

    Attributes:
        nodes: What was written so far.
    """

    def __init__(self, graph: ir.Graph, node: ir.Node) -> None:
        self.graph, self.node = graph, node
        self.nodes: list[ir.Node] = []

    def add(
        self,
        op: str,
        inputs: Sequence[ir.Value],
        dtype: ir.DataType,
        *,
        label: str,
        like: ir.Value | None = None,
        **attributes: Any,
    ) -> ir.Value:
        """Write one operator; its result is called after that of the node and ``label``.

        Args:
            op: Of the standard domain.
            inputs: What it takes.
            dtype: Of its result.
            label: What the step is called.
            like: What has the shape of its result, if that is known.
            attributes: By name.
        """
        made = ir.node(op, inputs, attributes, metadata_props={metadata.EXACT: self.node.op_type})
        self.nodes.append(made)
        result = made.outputs[0]
        result.name = made.name = unused_name(self.graph, f"{self.node.outputs[0].name}.{label}")
        result.type, result.shape = ir.TensorType(dtype), None if like is None else like.shape
        return result

    def cast(self, value: ir.Value, dtype: ir.DataType, *, label: str = "cast") -> ir.Value:
        """The same numbers as another type."""
        return self.add("Cast", [value], dtype, label=label, like=value, to=dtype.value)

    def number(self, name: str, numbers: NDArray[Any] | np.generic) -> ir.Value:
        """A constant."""
        return constant(self.graph, name, numbers)

    def looked_up(
        self, index: ir.Value, table: ir.Value, like: ir.Value, *, cast: ir.DataType | None = None
    ) -> ir.Value:
        """``table[index]`` of the shape of ``like``.

        By GatherElements, which is fast on flat tensors alone; Gather takes 8 times as long.

        Args:
            index: uint8 or int32.
            table: ``(256,)``.
            like: What has the shape of ``index``.
            cast: What the result is cast to while it is flat.
        """
        assert table.dtype is not None  # constants have types
        flat = like.shape is not None and len(like.shape) == 1
        if not flat:
            everything = self.number("shape.flat", np.array([-1], np.int64))
            index = self.add("Reshape", [index, everything], index.dtype or _INT32, label="flat")
        if index.dtype is not _INT32:
            index = self.cast(index, _INT32, label="index")
        found = self.add("GatherElements", [table, index], table.dtype, label="found", like=index, axis=0)
        if cast is not None:
            found = self.cast(found, cast, label="narrow")
        if flat:
            return found
        return self.add(
            "Reshape", [found, self._shape(like)], cast or table.dtype, label="looked_up", like=like
        )

    def _shape(self, like: ir.Value) -> ir.Value:
        """The shape of a value: a constant if at most one size is unknown."""
        sizes = [-1, -1] if like.shape is None else [s if isinstance(s, int) else -1 for s in like.shape]
        if sizes.count(-1) > 1 or 0 in sizes:
            return self.add("Shape", [like], ir.DataType.INT64, label="shape")
        return self.number("shape." + "x".join(map(str, sizes)), np.array(sizes, np.int64))
