"""The integer network in torch: the same integers as the emitted file, with straight-through gradients.

Every value is what it is in the integer file: codes behind a quantizer, int32 accumulators behind a
convolution. Integers are carried in floating point, which is exact while they are below 2**24 (float32)
or 2**53 (float64, used where the weights cannot prove the former). What QLinearConv rounds is
rounded here, in the same float32 operations; see ``passes/arithmetic.py``. So the last epochs train the
very network that is shipped, and ``verify`` holds the emitted file against it.
"""

from __future__ import annotations

__all__ = ["IntegerSimulation", "simulator_from_qdq"]

import dataclasses
import math
import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import onnx_ir as ir
import torch
from numpy.typing import NDArray
from torch import Tensor, fx, nn

from mpqtool.importer import import_graph
from mpqtool.passes.load import load_model
from mpqtool.passes.metadata import SUFFIX
from mpqtool.passes.placement import MOVES
from mpqtool.passes.quantize.extract import extract

from .quantizers import ActivationQuantizer, WeightQuantizer, round_ste
from .quantizers.attach import attach

Simulation = Callable[[Mapping[str, NDArray[Any]]], dict[str, NDArray[Any]]]

_FLOAT32_EXACT = 2**24


@dataclasses.dataclass(frozen=True)
class Codes:
    """Codes behind a quantizer, with the zero point taken off: real value ``scale * centered``."""

    centered: Tensor
    scale: Tensor
    zero_point: int
    high: int

    def real(self) -> Tensor:
        return self.centered * self.scale

    def with_centered(self, centered: Tensor) -> Codes:
        return dataclasses.replace(self, centered=centered)


@dataclasses.dataclass(frozen=True)
class WeightCodes:
    """Weight codes and their scale per kernel."""

    codes: Tensor
    scale: Tensor


@dataclasses.dataclass(frozen=True)
class Pending:
    """A result that waits for its quantizer: it knows how to become codes of any scale.

    Attributes:
        rescale: Output scale -> real value over that scale, not rounded, float32.
        real: The value where no quantizer follows (a graph output, an island), float32.
        late_zero: The zero point is added before rounding (a sum), not after (everything else).
        low: Real lower bound that a Relu or Clip puts on it, or None.
        high: Real upper bound, or None.
    """

    rescale: Callable[[Tensor], Tensor]
    real: Callable[[], Tensor]
    late_zero: bool = False
    low: float | None = None
    high: float | None = None

    def clipped(self, low: float | None, high: float | None) -> Pending:
        lows = [bound for bound in (self.low, low) if bound is not None]
        highs = [bound for bound in (self.high, high) if bound is not None]
        return dataclasses.replace(self, low=max(lows) if lows else None, high=min(highs) if highs else None)

    def value(self) -> Tensor:
        return (
            self.real() if self.low is None and self.high is None else self.real().clamp(self.low, self.high)
        )


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
                module.base.requires_grad_(False)

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
    """The integer simulation of what a QDQ file says, for ``verify`` without a trained network at hand."""
    model, plan = extract(load_model(path))
    return IntegerSimulation(attach(import_graph(model), plan).eval()).on_arrays(model)


class _Interpreter(fx.Interpreter):
    """Evaluates nodes over ``Codes``, ``WeightCodes``, ``Pending`` and plain tensors (real values)."""

    def __init__(self, module: fx.GraphModule, given: Mapping[str, Tensor] | None = None) -> None:
        super().__init__(module)
        self.quantized: dict[str, Codes] = {}
        self.given = given or {}

    def run_node(self, node: fx.Node) -> Any:
        result = self._run_node(node)
        if (
            isinstance(result, Codes) and "onnx_name" in node.meta
        ):  # moved codes; a quantizer's have no name here
            self.quantized[node.meta["onnx_name"]] = result
        return result

    def _run_node(self, node: fx.Node) -> Any:
        if node.op in ("call_function", "call_method"):
            args, kwargs = self.fetch_args_kwargs_from_env(node)
            form = _INTEGER_FORMS.get(node.meta.get("onnx_op"))
            if form is not None and isinstance(_first(args[0]), Codes | Pending):
                result = form(_operation(node), *args, **kwargs)
                if result is not NotImplemented:
                    return result
        return super().run_node(node)

    def call_module(self, target: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        module = self.fetch_attr(target)
        if isinstance(module, WeightQuantizer):
            return WeightCodes(module.codes(args[0]), module.scale)
        if isinstance(module, ActivationQuantizer):
            codes = _quantize(args[0], module)
            if module.name in self.given:
                codes = codes.with_centered(self.given[module.name].to(codes.centered) - codes.zero_point)
            self.quantized[module.name] = codes
            return codes
        return super().call_module(target, _as_real(args), _as_real(kwargs))

    def call_function(self, target: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        return super().call_function(target, _as_real(args), _as_real(kwargs))

    def call_method(self, target: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        return super().call_method(target, _as_real(args), _as_real(kwargs))

    def output(self, target: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        return super().output(target, _as_real(args), kwargs)


def _operation(node: fx.Node) -> Callable[..., Tensor]:
    """What a node calls, as a function of plain tensors."""
    if callable(node.target):
        return node.target
    method = node.target
    return lambda x, *args, **kwargs: getattr(x, method)(*args, **kwargs)


def _first(value: Any) -> Any:
    return value[0] if isinstance(value, list | tuple) and value else value


def _as_real(value: Any) -> Any:
    """Replace codes, weights and pending results by the real values they stand for."""
    if isinstance(value, Codes):
        return value.real()
    if isinstance(value, Pending):
        return value.value()
    if isinstance(value, WeightCodes):
        return value.codes * value.scale.view(-1, *[1] * (value.codes.ndim - 1))
    if isinstance(value, tuple | list):
        return type(value)(_as_real(entry) for entry in value)
    if isinstance(value, dict):
        return {key: _as_real(entry) for key, entry in value.items()}
    return value


def _quantize(value: Any, quantizer: ActivationQuantizer) -> Codes:
    """What stands behind a quantizer: ``clamp(rint(value / scale) + zero_point, low, high)``."""
    scale, zero, high = quantizer.scale.detach(), int(quantizer.zero_point), quantizer.high
    if isinstance(value, Codes):  # a second scale for the same value
        value = value.real()
    if isinstance(value, Tensor):
        value = Pending(rescale=lambda s, x=value: x / s, real=lambda x=value: x)  # type: ignore[misc]
    assert isinstance(value, Pending)
    low_code, high_code = _code_of(value.low, scale, zero, high), _code_of(value.high, scale, zero, high)
    low_code, high_code = (0 if low_code is None else low_code), (high if high_code is None else high_code)
    over_scale = value.rescale(scale)
    rounded = round_ste(over_scale + zero) if value.late_zero else round_ste(over_scale) + zero
    return Codes(rounded.clamp(low_code, high_code) - zero, scale, zero, high)


def _code_of(bound: float | None, scale: Tensor, zero: int, high: int) -> int | None:
    """The code of a real bound: clipping and quantizing commute, as both are monotone."""
    if bound is None:
        return None
    return int((torch.round(torch.tensor(bound, device=scale.device) / scale) + zero).clamp(0, high))


def _weighted(
    op: Callable[..., Tensor], x: Any, weight: Any, bias: Tensor | None = None, *args: Any, **kwargs: Any
) -> Any:
    """A convolution or matrix product: an int32 accumulator in units of ``s_x * s_w``."""
    if not isinstance(x, Codes) or not isinstance(weight, WeightCodes):
        return NotImplemented
    unit = x.scale * weight.scale
    bias_codes = None if bias is None else round_ste(bias / unit)
    exact = torch.float32 if _largest_sum(x, weight, bias_codes) < _FLOAT32_EXACT else torch.float64
    with torch.backends.cudnn.flags(allow_tf32=False):
        acc = op(
            x.centered.to(exact),
            weight.codes.to(exact),
            None if bias_codes is None else bias_codes.to(exact),
            *args,
            **kwargs,
        ).float()
    channels = -1 if weight.codes.ndim == 2 else 1
    shape = [-1 if axis == channels % acc.ndim else 1 for axis in range(acc.ndim)]
    return Pending(
        rescale=lambda scale: acc * (unit / scale).view(shape),
        real=lambda: acc * unit.view(shape),
    )


@torch.no_grad()
def _largest_sum(x: Codes, weight: WeightCodes, bias: Tensor | None) -> float:
    """A bound on ``abs(acc)`` and all its partial sums, from the weights alone."""
    reach = max(x.zero_point, x.high - x.zero_point)
    sums = weight.codes.abs().flatten(1).sum(1) * reach
    return float((sums if bias is None else sums + bias.abs()).max())


def _relu(op: Callable[..., Tensor], x: Any) -> Any:
    return _clip(op, x, min=0.0)


def _clip(op: Callable[..., Tensor], x: Any, min: Any = None, max: Any = None) -> Any:  # torch's names
    if isinstance(x, Pending):
        return x.clipped(min, max)
    low, high = (
        None if bound is None else bound - x.zero_point
        for bound in (_code_of(limit, x.scale, x.zero_point, x.high) for limit in (min, max))
    )
    return x.with_centered(x.centered.clamp(low, high))


def _add(op: Callable[..., Tensor], a: Any, b: Any) -> Any:
    """``(a - z_a) * (s_a / s_y) + (b - z_b) * (s_b / s_y)``, the zero point of y added before rounding."""
    if not isinstance(a, Codes) or not isinstance(b, Codes):
        return NotImplemented
    return Pending(
        rescale=lambda scale: a.centered * (a.scale / scale) + b.centered * (b.scale / scale),
        real=lambda: a.real() + b.real(),
        late_zero=True,
    )


def _global_average(op: Callable[..., Tensor], x: Any) -> Any:
    """A sum of codes times ``s_x / (s_y * count)``."""
    if not isinstance(x, Codes):
        return NotImplemented
    count = x.centered[0, 0].numel()
    # float64: the sum of a large map can pass 2**24.
    total = x.centered.double().sum(tuple(range(2, x.centered.ndim)), keepdim=True).float()
    return Pending(
        rescale=lambda scale: total * (x.scale / (scale * count)),
        real=lambda: total * (x.scale / count),
    )


def _average(op: Callable[..., Tensor], x: Any, kernel: Sequence[int], *args: Any) -> Any:
    """A sum of codes times ``(s_x * float32(1 / count)) / s_y``: a depthwise convolution with ones."""
    count = math.prod(kernel)
    if not isinstance(x, Codes):
        return NotImplemented
    # The mean of integers in float64 times their count is within 1e-9 of the sum: round to it.
    total = round_ste(op(x.centered.double(), kernel, *args) * count).float()
    unit = x.scale * torch.tensor(1 / count, dtype=torch.float32, device=x.scale.device)
    return Pending(rescale=lambda scale: total * (unit / scale), real=lambda: total * unit)


def _moved(op: Callable[..., Tensor], x: Any, *args: Any, **kwargs: Any) -> Any:
    """An operator that moves or picks values: it does the same to codes."""
    return x.with_centered(op(x.centered, *args, **kwargs)) if isinstance(x, Codes) else NotImplemented


_INTEGER_FORMS: dict[str | None, Callable[..., Any]] = {
    "Conv": _weighted,
    "Gemm": _weighted,
    "Relu": _relu,
    "Clip": _clip,
    "Add": _add,
    "GlobalAveragePool": _global_average,
    "AveragePool": _average,
    **dict.fromkeys(("MaxPool", *MOVES), _moved),
}
