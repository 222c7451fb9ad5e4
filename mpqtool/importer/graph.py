"""The graph: an ONNX model becomes a functional torch.fx graph whose parameters keep their ONNX names."""

from __future__ import annotations

__all__ = ["import_graph"]

from collections.abc import Iterable
from typing import Any

import onnx_ir as ir
import torch
from torch import Tensor, fx, nn

from mpqtool.passes.errors import UnsupportedOpError

from .codes import CARRIES_CODES, CODES
from .dtypes import TORCH_DTYPES, tensor_from_array
from .learning import learned_constants
from .module import ImportedGraph
from .registry import Handler, leaf, lookup, no_tensor, unsupported


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
    faults: list[str] = []
    handlers: dict[ir.Node, Handler] = {}
    missing: dict[ir.Node, UnsupportedOpError] = {}
    for node in model.graph:
        try:
            handlers[node] = lookup(node, opsets.get(node.domain, 0))
        except UnsupportedOpError as error:
            missing[node] = error
    importer = _Importer(learned_constants(model.graph, handlers))
    for value in model.graph.inputs:
        if not value.is_initializer():
            try:
                importer.add_input(value)
            except UnsupportedOpError as error:
                faults.append(str(error))
    for node in model.graph:
        try:
            if node in missing:
                raise missing[node]
            importer.add_node(node, handlers[node])
        except UnsupportedOpError as error:
            faults.append(str(error))
            importer.skip_node(node)
    if faults:
        raise UnsupportedOpError(_summary(faults))
    return importer.finish(model.graph.outputs)


def _summary(faults: list[str]) -> str:
    if len(faults) == 1:
        return f"Cannot import {faults[0]}"
    return "\n".join([f"Cannot import {len(faults)} parts of the model:", *(f"  {f}" for f in faults)])


class _Importer:
    """The torch graph as it grows; ``values`` has the proxy of every ONNX value so far."""

    def __init__(self, learned: set[ir.Value]) -> None:
        self.learned = learned
        self.root = ImportedGraph()
        self.graph = fx.Graph()
        self.tracer = fx.proxy.GraphAppendingTracer(self.graph)
        self.values: dict[str, fx.Proxy] = {}

    def add_input(self, value: ir.Value) -> None:
        """Add a graph input.

        Raises:
            UnsupportedOpError: It is not a tensor of numbers.
        """
        proxy = self.tracer.create_proxy("placeholder", f"input_{len(self.values)}", (), {})
        self._set(value, proxy, "Input")
        reason = no_tensor(value)
        if reason:
            raise UnsupportedOpError(f"input {value.name!r}: it is {reason}.")

    def add_node(self, node: ir.Node, handler: Handler) -> None:
        inputs = [self._input(node, index, handler) for index in range(len(node.inputs))]
        result = handler(node, inputs, _attributes(node, handler))
        if isinstance(result, nn.Module):
            name = f"_{node.op_type.lower()}_{len(self.graph.nodes)}"
            self.root.add_module(name, result)
            result = self.tracer.create_proxy("call_module", name, tuple(inputs), {})
        results = result if isinstance(result, tuple) else (result,)
        for index, output in enumerate(node.outputs):
            if index < len(results):
                self._add_output(output, results[index], node.op_type)
            elif output.uses() or output.is_graph_output():
                raise unsupported(
                    node, f"output {index} ({output.name!r}) is used, and {len(results)} outputs are handled"
                )

    def _add_output(self, output: ir.Value, result: fx.Proxy | Tensor, op_type: str) -> None:
        if not output.name:  # one that the node leaves out
            return
        if isinstance(result, Tensor):
            attribute = self.root.add_initializer(output.name, result, persistent=False)
            result = self.tracer.create_proxy("get_attr", attribute, (), {})
        self._set(output, result, op_type)

    def skip_node(self, node: ir.Node) -> None:
        """Stand-ins for the outputs of a node that failed, so that the nodes after it are looked at too."""
        for output in node.outputs:
            if output.name:
                self.values[output.name] = self.tracer.create_proxy("placeholder", "missing", (), {})

    def finish(self, outputs: Iterable[ir.Value]) -> ImportedGraph:
        self.graph.output(tuple(self._output(value).node for value in outputs))
        self.graph.lint()
        self.root.graph = self.graph
        return self.root

    def _input(self, node: ir.Node, index: int, handler: Handler) -> Any:
        value = node.inputs[index]
        if value is None:
            return None
        name = handler.input_name(index)
        if name is None:
            count = len(node.inputs)
            raise unsupported(node, f"it has {count} inputs, handled are {index}. Leave {value.name!r} out")
        constant = _constant(value)
        if name in handler.known and constant is not None:
            return _as_tuple(constant.numpy().tolist())
        real = handler.real(value) if handler.real is not None and constant is not None else None
        proxy = self._value(value, learned=value in self.learned or real is not None, real=real)
        if constant is None and value.dtype in CODES and not _takes_codes(node, name, handler):
            proxy = in_type(proxy, TORCH_DTYPES[value.dtype])
        return proxy

    def _output(self, value: ir.Value) -> fx.Proxy:
        """A graph output; codes, which may be carried as floats, in the type of the file."""
        proxy = self._value(value, learned=False)
        if value.dtype in CODES:
            proxy = in_type(proxy, TORCH_DTYPES[value.dtype])
        return proxy

    def _value(self, value: ir.Value, *, learned: bool, real: Tensor | None = None) -> fx.Proxy:
        name, constant = _name(value), _constant(value)
        if name not in self.values and constant is not None:
            reason = no_tensor(value)
            if reason:
                raise UnsupportedOpError(f"constant {name!r}: it is {reason}.")
            tensor = tensor_from_array(constant.numpy()) if real is None else real
            attribute = self.root.add_initializer(name, tensor)
            self._set(value, self.tracer.create_proxy("get_attr", attribute, (), {}), "Initializer")
        if learned and constant is not None:  # a result of a constant alone is no initializer
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


@leaf
def in_type(codes: Any, dtype: torch.dtype) -> Any:
    """Codes in a type of their own."""
    return codes.to(dtype)


def _takes_codes(node: ir.Node, name: str, handler: Handler) -> bool:
    """Whether codes that are carried as floats are right here: elsewhere integers wrap, and truncate."""
    return name in handler.moved or node.op_type in CARRIES_CODES


def _constant(value: ir.Value) -> ir.TensorProtocol | None:
    """The tensor of an initializer, or of a Constant node."""
    return ir.convenience.get_const_tensor(value)


def _as_tuple(numbers: Any) -> Any:
    """Lists within lists as tuples, which the torch graph keeps as they are."""
    return tuple(map(_as_tuple, numbers)) if isinstance(numbers, list) else numbers


def _name(value: ir.Value) -> str:
    assert value.name, "normalize gives every value a name"
    return value.name


def _attributes(node: ir.Node, handler: Handler) -> dict[str, Any]:
    """Attributes as Python values."""
    values: dict[str, Any] = {}
    for name, attribute in node.attributes.items():
        value = attribute.value
        if name not in handler.attributes:
            allowed = ", ".join(sorted(handler.attributes)) or "none"
            reason = f"attribute {name!r} (found {value!r}) is not handled, handled are {allowed}"
            raise unsupported(node, f"{reason}. Export the model without it")
        values[name] = tuple(value) if isinstance(value, list) else value
    return values
