"""The graph: an ONNX model becomes a functional torch.fx graph whose parameters keep their ONNX names."""

from __future__ import annotations

__all__ = ["import_graph"]

from collections.abc import Iterable
from typing import Any

import numpy as np
import onnx_ir as ir
import torch
from torch import fx, nn

from mpqtool.passes.errors import UnsupportedOpError

from .module import ImportedGraph
from .registry import Handler, leaf, lookup, unsupported


def import_graph(model: ir.Model) -> fx.GraphModule:
    """Import a normal graph.

    Every fx node that makes an ONNX value has ``meta["onnx_name"]``, the name of the value, and
    ``meta["onnx_op"]``, the operator (``"Input"`` and ``"Initializer"`` for those). Weights are
    ``nn.Parameter``, other constants buffers, both under the name of the initializer; what an operator
    must know beforehand, as the shape of a Reshape, is a Python value.

    Args:
        model: A graph without subgraphs and functions, as ``normalize`` leaves it.

    Returns:
        A module in training mode that takes the inputs in graph order and gives a tuple of the outputs
        in graph order. No size is fixed that the ONNX graph does not fix.

    Raises:
        UnsupportedOpError: Operators that cannot be imported; the message lists them all.
    """
    opsets = {"" if domain == "ai.onnx" else domain: v for domain, v in model.graph.opset_imports.items()}
    importer = _Importer()
    for value in model.graph.inputs:
        if not value.is_initializer():
            importer.add_input(value)
    faults: list[str] = []
    for node in model.graph:
        try:
            importer.add_node(node, opsets.get(node.domain, 0))
        except UnsupportedOpError as error:
            faults.append(str(error))
            importer.skip_node(node)
    if faults:
        count = f"{len(faults)} nodes" if len(faults) > 1 else "1 node"
        raise UnsupportedOpError(
            f"Cannot import {count}: {'; '.join(faults)}. Export the model again with other operators in "
            "their place, or cut this part off."
        )
    return importer.finish(model.graph.outputs)


class _Importer:
    """The torch graph as it grows; ``values`` has the proxy of every ONNX value so far."""

    def __init__(self) -> None:
        self.root = ImportedGraph()
        self.graph = fx.Graph()
        self.tracer = fx.proxy.GraphAppendingTracer(self.graph)
        self.values: dict[str, fx.Proxy] = {}

    def add_input(self, value: ir.Value) -> None:
        proxy = self.tracer.create_proxy("placeholder", f"input_{len(self.values)}", (), {})
        self._set(value, proxy, "Input")

    def add_node(self, node: ir.Node, opset: int) -> None:
        handler = lookup(node, opset)
        inputs = [self._input(node, index, handler) for index in range(len(node.inputs))]
        result = handler.function(node, *inputs, **_attributes(node, handler))
        if isinstance(result, nn.Module):
            name = f"_{node.op_type.lower()}_{len(self.graph.nodes)}"
            self.root.add_module(name, result)
            result = self.tracer.create_proxy("call_module", name, tuple(inputs), {})
        results = result if isinstance(result, tuple) else (result,)
        for index, output in enumerate(node.outputs):
            if index < len(results):
                self._set(output, results[index], node.op_type)
            elif output.uses() or output.is_graph_output():
                raise unsupported(
                    node, f"output {index} ({output.name!r}) is used, and only the first is imported"
                )

    def skip_node(self, node: ir.Node) -> None:
        """Stand-ins for the outputs of a node that failed, so that the nodes after it are looked at too."""
        for output in node.outputs:
            self.values[_name(output)] = self.tracer.create_proxy("placeholder", "missing", (), {})

    def finish(self, outputs: Iterable[ir.Value]) -> ImportedGraph:
        self.graph.output(tuple(self._value(value, learned=False).node for value in outputs))
        self.graph.lint()
        self.root.graph = self.graph
        return self.root

    def _input(self, node: ir.Node, index: int, handler: Handler) -> Any:
        value = node.inputs[index]
        if value is None:
            return None
        name = handler.input_name(index)
        if name is None:
            raise unsupported(node, f"input {index} ({value.name!r}) is not handled")
        constant = value.const_value
        if name in handler.known:
            if constant is None:
                raise unsupported(node, f"input {index} ({value.name!r}) must be a constant")
            return constant.numpy()
        learned = name in handler.learned or (
            name in handler.learned_arrays and constant is not None and constant.size > 1
        )
        return self._value(value, learned=learned)

    def _value(self, value: ir.Value, *, learned: bool) -> fx.Proxy:
        name = _name(value)
        if value.const_value is None:
            return self.values[name]
        if name not in self.values:
            tensor = torch.from_numpy(np.array(value.const_value.numpy()))  # a copy, writable
            attribute = self.root.add_initializer(name, tensor)
            self._set(value, self.tracer.create_proxy("get_attr", attribute, (), {}), "Initializer")
        if learned:
            self.root.make_parameter(name)
        return self.values[name]

    def _set(self, value: ir.Value, proxy: fx.Proxy, op: str) -> None:
        if "onnx_name" in proxy.node.meta:  # an operator that does nothing makes a value all the same
            proxy = identity(proxy)
        proxy.node.meta.update(onnx_name=_name(value), onnx_op=op)
        self.values[_name(value)] = proxy


@leaf
def identity(x: Any) -> Any:
    """The input itself, under another name."""
    return x


def _name(value: ir.Value) -> str:
    assert value.name, "normalize gives every value a name"
    return value.name


def _attributes(node: ir.Node, handler: Handler) -> dict[str, Any]:
    """Attributes as Python values."""
    values: dict[str, Any] = {}
    for name, attribute in node.attributes.items():
        value = attribute.value
        if name not in handler.attributes:
            raise unsupported(node, f"attribute {name!r} (found {value!r}) is not handled")
        values[name] = tuple(value) if isinstance(value, list) else value
    return values
