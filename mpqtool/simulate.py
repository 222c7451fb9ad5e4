"""The integer network in torch: the same integers as the emitted file, with straight-through gradients.

Every value is what it is in the integer file: codes behind a quantizer, int32 accumulators behind a
convolution. Integers are carried in floating point, which is exact while they are below 2**24 (float32)
or 2**53 (float64, used where the weights cannot prove the former). What QLinearConv rounds is
rounded here, in the same float32 operations; see ``passes/arithmetic.py``. So the last epochs train the
very network that is shipped, and ``verify`` holds the emitted file against it.

The simulation is no independent witness of everything. It shares with the numpy reference and with lowering:
the plan (scales, zero points, widths, offsets, read from the same QDQ file), the numbers of tables and the
exponentials of Softmax (``passes/functions.py``), the ratios of a sum (``passes/arithmetic.py``), the
divisors of an AveragePool (``passes/windows.py``) and the normalized graph. An error in one of these is the
same error everywhere. Where float operators make codes, the simulation goes on from those of ONNX Runtime.
"""

from __future__ import annotations

__all__ = ["IntegerSimulation", "simulator_from_qdq"]

import os
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import onnx_ir as ir
import torch
from numpy.typing import NDArray
from torch import Tensor, fx, nn

from mpqtool.importer import import_graph
from mpqtool.passes import pipelines
from mpqtool.passes.errors import PlanError
from mpqtool.passes.load import load_model
from mpqtool.passes.metadata import NAME, SUFFIX
from mpqtool.passes.quantize.extract import extract
from mpqtool.runtime.held import BROKEN, require_qdq
from mpqtool.runtime.reference import Reference

from .integer_forms import INTEGER_FORMS, Codes, Pending, WeightCodes, as_real, first, quantize
from .quantizers import ActivationQuantizer, WeightQuantizer
from .quantizers.attach import attach

Simulation = Callable[[Mapping[str, NDArray[Any]]], dict[str, NDArray[Any]]]


class IntegerSimulation(nn.Module):
    """Run a graph with attached quantizers in integers.

    Scales are constants here: they are not trained. BatchNormalization must be folded.

    Args:
        graph_module: The graph with its quantizers; its parameters are shared, not copied.

    Shape:
        Inputs and outputs are those of the graph, float32.
    """

    def __init__(self, graph_module: fx.GraphModule) -> None:
        super().__init__()
        self.graph_module = graph_module
        for module in graph_module.modules():
            if isinstance(module, ActivationQuantizer):
                module.learned_scale.requires_grad_(False)

    def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        outputs: tuple[Tensor, ...] = _Interpreter(self.graph_module).run(*inputs)
        return outputs

    @torch.no_grad()
    def codes(
        self, *inputs: Tensor, given: Mapping[str, Tensor] | None = None
    ) -> tuple[dict[str, Tensor], tuple[Tensor, ...]]:
        """The codes of every quantized value, uint8, by value name; and the outputs of the graph.

        Args:
            inputs: Inputs of the graph.
            given: Codes to go on from, by value name, where an operator in between computes in float.
        """
        interpreter = _Interpreter(self.graph_module, given)
        outputs = interpreter.run(*inputs)
        codes = {
            name: (value.centered + value.zero_point).to(torch.uint8)
            for name, value in interpreter.quantized.items()
        }
        return codes, outputs

    def on_arrays(self, model: ir.Model) -> Simulation:
        """The simulation as ``verify`` wants it: arrays in, codes (``v.codes``) and outputs out, all by name.

        Args:
            model: The graph this was imported from, for the names of its inputs and outputs.
        """
        inputs = [str(value.name) for value in model.graph.inputs]
        results = [str(value.name) for value in model.graph.outputs]

        def simulate(feeds: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
            device = next(self.parameters()).device
            tensors = {name: torch.from_numpy(array).to(device) for name, array in feeds.items()}
            given = {name.removesuffix(SUFFIX): t for name, t in tensors.items() if name not in inputs}
            codes, outputs = self.codes(*(tensors[name] for name in inputs), given=given)
            named = {name + SUFFIX: code for name, code in codes.items()}
            named |= dict(zip(results, outputs, strict=True))
            return {name: tensor.cpu().numpy() for name, tensor in named.items()}

        return simulate


def simulator_from_qdq(path: str | os.PathLike[str]) -> Simulation:
    """The integer simulation of what a QDQ file says, for ``verify`` without a trained network at hand.

    Raises:
        PassError: A plan cannot say what the file does, as it may be where another tool quantized it.
        RuntimeFault: It is no QDQ file.
    """
    loaded = load_model(path)
    require_qdq(loaded, path)
    try:
        return _simulator(loaded, path)
    except BROKEN as error:
        raise PlanError(f"Cannot simulate {os.fspath(path)!r}: {error}") from error


def _simulator(loaded: ir.Model, path: str | os.PathLike[str]) -> Simulation:
    qdq = pipelines.canonical_qdq(loaded)
    model, plan = extract(qdq)
    ours = any(NAME in node.metadata_props for node in qdq.graph)
    if not ours and not _same_integers(qdq, pipelines.quantize(model, plan)):
        raise PlanError(
            f"Cannot simulate {os.fspath(path)!r}: it quantizes at other places, or to other ranges, than a "
            "plan says."
        )
    return IntegerSimulation(attach(import_graph(model), plan).eval()).on_arrays(model)


def _same_integers(qdq: ir.Model, other: ir.Model) -> bool:
    """Whether two QDQ files stand for integer networks of the same codes and constants."""
    one, two = Reference(pipelines.lower(qdq)), Reference(pipelines.lower(other))
    found, wanted = one.constant_inputs(), two.constant_inputs()
    return (
        one.codes == two.codes
        and found.keys() == wanted.keys()
        and all(np.array_equal(numbers, wanted[key]) for key, numbers in found.items())
    )


class _Interpreter(fx.Interpreter):
    """Evaluates nodes over ``Codes``, ``WeightCodes``, ``Pending`` and plain tensors (real values)."""

    def __init__(self, module: fx.GraphModule, given: Mapping[str, Tensor] | None = None) -> None:
        super().__init__(module)
        self.quantized: dict[str, Codes] = {}
        self.given = given or {}

    def run_node(self, node: fx.Node) -> Any:
        result = self._run_node(node)
        if isinstance(result, Codes) and "onnx_name" in node.meta:  # moved; a quantizer's have no name here
            return self._codes(node.meta["onnx_name"], result)
        return result

    def _codes(self, name: str, own: Codes) -> Codes:
        """Note the codes of a value: those that are given, where there are any."""
        given = self.given.get(name)
        codes = own if given is None else own.with_centered(given.to(own.centered) - own.zero_point)
        self.quantized[name] = codes
        return codes

    def _run_node(self, node: fx.Node) -> Any:
        if node.op in ("call_function", "call_method"):
            args, kwargs = self.fetch_args_kwargs_from_env(node)
            form = INTEGER_FORMS.get(node.meta.get("onnx_op", ""))
            if form is not None and any(isinstance(first(value), Codes | Pending) for value in args):
                result = form(_operation(node), *args, **kwargs)
                if result is not NotImplemented:
                    return result
        return super().run_node(node)

    def call_module(self, target: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        module = self.fetch_attr(target)
        if isinstance(module, WeightQuantizer):
            unit = 2**module.shift
            return WeightCodes(module.codes(args[0]) * unit, module.scale / unit)
        if isinstance(module, ActivationQuantizer):
            return self._codes(module.name, quantize(args[0], module))
        return super().call_module(target, as_real(args), as_real(kwargs))

    def call_function(self, target: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        return super().call_function(target, as_real(args), as_real(kwargs))

    def call_method(self, target: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        return super().call_method(target, as_real(args), as_real(kwargs))

    def output(self, target: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        return super().output(target, as_real(args), kwargs)


def _operation(node: fx.Node) -> Callable[..., Tensor]:
    """What a node calls, as a function of plain tensors."""
    if callable(node.target):
        return node.target
    method = node.target
    return lambda x, *args, **kwargs: getattr(x, method)(*args, **kwargs)
