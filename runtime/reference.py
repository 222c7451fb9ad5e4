"""Run an integer graph in numpy, with ``passes/arithmetic.py``.

A second engine, written apart from ONNX Runtime: where both give the same integers, the file means what
it says. Integer operators are exact here by construction (``kernels.py``). Float operators that are left
in the file run in ``onnx.reference``; they are no reference to the last bit.
"""

from __future__ import annotations

__all__ = ["Reference"]

import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import onnx_ir as ir
import threadpoolctl  # type: ignore[import-untyped]
from numpy.typing import NDArray

from mpqtool.passes import metadata
from mpqtool.passes.load import load_model
from mpqtool.passes.values import array

from . import float_ops, integer_ops

Array = NDArray[Any]


class Reference:
    """An integer graph, ready to run.

    Args:
        model: Graph or path.

    Attributes:
        codes: Names of the codes of activations, in graph order; at islands, of any type.
        islands: Those of them that a float operator makes.
        exact_outputs: Float values that are defined to the bit: dequantized codes that are graph
            outputs, and accumulators of QGemm.
        kept: By name of codes that lost channels when kernels were removed: which are left, along axis 1.

    Raises:
        ModelError: The file cannot be read.
    """

    def __init__(self, model: ir.Model | str | os.PathLike[str]) -> None:
        if not isinstance(model, ir.Model):
            model = load_model(model)
        self._threads = threadpoolctl.ThreadpoolController()
        self._graph = model.graph
        self._opset = model.graph.opset_imports.get("", 21)
        self._functions = model.functions
        self._constants: dict[str, Array] = {}
        for name, value in model.graph.initializers.items():
            numbers = array(value)
            if numbers is not None:
                self._constants[name] = numbers
        self._nodes = [node for node in model.graph if not self._fold(node)]
        self._last_use = _last_uses(self._nodes)
        made = [(node, str(v.name)) for node in self._nodes for v in node.outputs if v.name]
        ends = {str(v.name) for node in self._nodes for v in node.outputs if _ends_island(node, v)}
        self.codes = tuple(name for _, name in made if name.endswith(metadata.SUFFIX) or name in ends)
        self.islands = tuple(
            name for node, name in made if name in self.codes and metadata.ISLAND in node.metadata_props
        )
        self.kept = {
            name: np.array(metadata.from_ranges(node.metadata_props[metadata.KEPT]))
            for node, name in made
            if name in self.codes and metadata.KEPT in node.metadata_props
        }
        outputs = {str(value.name) for value in model.graph.outputs}
        self.exact_outputs = tuple(
            name
            for node, name in made
            if (node.op_type == "QGemm" and len(node.inputs) < 8)
            or (node.op_type == "DequantizeLinear" and name in outputs)
        )

    def run(
        self,
        feeds: Mapping[str, Array],
        given: Mapping[str, Array] | None = None,
        on_node: Callable[[ir.Node, Sequence[Array]], Sequence[Array] | None] | None = None,
    ) -> dict[str, Array]:
        """Compute every code and every graph output.

        Args:
            feeds: The graph inputs by name.
            given: Codes to go on with at islands in place of the own ones, by name: a float operator
                may differ by a unit in the last place between engines, and so by one code.
            on_node: Called with each node and what it gave; what it returns, if anything, takes its place.

        Returns:
            The codes (own ones at islands too), exact float values and graph outputs, by name.
        """
        # Our products are many and small: threads of BLAS would wait for each other, 30 times as long.
        # A mask of the least float32 overflows, as it does in ONNX Runtime.
        with self._threads.limit(limits=1, user_api="blas"), np.errstate(over="ignore", invalid="ignore"):
            return self._run(feeds, given or {}, on_node)

    def _run(
        self,
        feeds: Mapping[str, Array],
        given: Mapping[str, Array],
        on_node: Callable[[ir.Node, Sequence[Array]], Sequence[Array] | None] | None,
    ) -> dict[str, Array]:
        values: dict[str, Any] = {**self._constants, **feeds}
        wanted = {*self.codes, *self.exact_outputs, *(str(v.name) for v in self._graph.outputs)}
        results: dict[str, Array] = {}
        for index, node in enumerate(self._nodes):
            inputs = [None if value is None else values[str(value.name)] for value in node.inputs]
            made = self._compute(node, inputs, {name: values[name] for name in _captured(node)})
            if on_node is not None:
                made = on_node(node, made) or made
            for value, result in zip(node.outputs, made, strict=False):
                name = str(value.name)
                if name in wanted:
                    results[name] = result
                values[name] = given[name] if name in self.islands and name in given else result
            for name in self._last_use.get(index, ()):
                values.pop(name, None)
        for output in self._graph.outputs:  # one may be an input or a constant
            if output.name not in results:
                results[str(output.name)] = values[str(output.name)]
        return results

    def constant_inputs(self) -> dict[tuple[str, int], Array]:
        """The constants that the operators use, unpacked: by (first output of the operator, index)."""
        return {
            (str(node.outputs[0].name), index): self._constants[str(value.name)]
            for node in self._nodes
            for index, value in enumerate(node.inputs)
            if value is not None and str(value.name) in self._constants
        }

    def _compute(self, node: ir.Node, inputs: list[Any], captured: Mapping[str, Array]) -> Sequence[Array]:
        run = integer_ops.OPERATORS.get((node.domain, node.op_type))
        made = NotImplemented if run is None else run(node, inputs)
        if made is not NotImplemented:
            return made if isinstance(made, tuple) else (made,)
        return float_ops.run(node, inputs, captured, self._opset, self._functions)

    def _fold(self, node: ir.Node) -> bool:
        """Compute a node that depends on constants alone, once."""
        used = {*_captured(node), *(str(v.name) for v in node.inputs if v is not None)}
        if not node.inputs or not used <= self._constants.keys():
            return False
        inputs = [None if v is None else self._constants[str(v.name)] for v in node.inputs]
        captured = {name: self._constants[name] for name in _captured(node)}
        for value, result in zip(node.outputs, self._compute(node, inputs, captured), strict=False):
            self._constants[str(value.name)] = result
        return True


def _ends_island(node: ir.Node, value: ir.Value) -> bool:
    """Whether a node makes codes of what float operators compute; those that are shown have any name."""
    is_real = value.dtype in (None, ir.DataType.FLOAT)
    return node.metadata_props.get(metadata.ISLAND) == "" and not is_real


def _captured(node: ir.Node) -> list[str]:
    """What the graphs of an If or Loop use of the values around it, by name."""
    graphs = [graph for attribute in node.attributes.values() for graph in _graphs(attribute)]
    inner = {id(part) for graph in graphs for part in (graph, *graph.subgraphs())}
    used = [v for graph in graphs for user in graph.all_nodes() for v in user.inputs if v is not None]
    return list(dict.fromkeys(str(v.name) for v in used if id(v.graph) not in inner))


def _graphs(attribute: ir.Attr) -> list[ir.Graph]:
    if attribute.type is ir.AttributeType.GRAPH:
        return [attribute.as_graph()]
    return list(attribute.as_graphs()) if attribute.type is ir.AttributeType.GRAPHS else []


def _last_uses(nodes: list[ir.Node]) -> dict[int, list[str]]:
    """Which values nobody needs after a node."""
    last = {str(v.name): index for index, node in enumerate(nodes) for v in node.inputs if v is not None}
    last.update((name, index) for index, node in enumerate(nodes) for name in _captured(node))
    constants = {str(v.name) for node in nodes for v in node.inputs if v is not None and v.is_initializer()}
    done: dict[int, list[str]] = {}
    for name, index in last.items():
        if name not in constants:
            done.setdefault(index, []).append(name)
    return done
