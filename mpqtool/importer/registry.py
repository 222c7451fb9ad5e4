"""Which function imports which operator: the table, and how the rest of the importer speaks to it."""

from __future__ import annotations

__all__ = [
    "Handler",
    "integers",
    "leaf",
    "lookup",
    "no_tensor",
    "parts",
    "register",
    "supported",
    "unsupported",
]

import dataclasses
import functools
import inspect
from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar, cast

import onnx
import onnx_ir as ir
from torch import Tensor, fx

from mpqtool.passes.errors import UnsupportedOpError

from .dtypes import TORCH_DTYPES

P = ParamSpec("P")
R = TypeVar("R")
F = TypeVar("F", bound=Callable[..., Any])


@dataclasses.dataclass(frozen=True)
class Handler:
    """A handler function and what it wants its constant inputs to be.

    The function is called as ``function(node, *inputs, **attributes)``. Its positional parameters are
    the operator's inputs and its keyword parameters the attributes, with the defaults of the schema.
    It gets proxies for tensors and returns what it computed, a tuple of that for several outputs, or an
    ``nn.Module`` that is to be called on the same inputs. A constant input is by default a buffer.

    Attributes:
        function: The handler.
        learned: Inputs whose constants are the weights of a layer.
        learned_arrays: Inputs whose constants may be weights; see ``learning`` for when they are.
        moved: Inputs whose numbers are only moved, so that what they are holds for the outputs too:
            weights, and codes.
        known: Inputs that steer the operator, as the shape of a Reshape. Where they are constants the
            handler gets a Python number, or a tuple of them, and else a proxy; see ``integers``.
        real: Gives what a constant stands for, or None. In its place that is what the handler gets, as
            a parameter: the real values of a weight that the file has in codes.
    """

    function: Callable[..., Any]
    learned: frozenset[str] = frozenset()
    learned_arrays: frozenset[str] = frozenset()
    moved: frozenset[str] = frozenset()
    known: frozenset[str] = frozenset()
    real: Callable[[ir.Value], Tensor | None] | None = None

    @functools.cached_property
    def _signature(self) -> inspect.Signature:
        return inspect.signature(self.function)

    @property
    def _parameters(self) -> list[inspect.Parameter]:
        return list(self._signature.parameters.values())[1:]

    def __call__(self, node: ir.Node, inputs: list[Any], attributes: dict[str, Any]) -> Any:
        """What the operator computes.

        Raises:
            UnsupportedOpError: The node lacks an input or attribute that its operator must have.
        """
        try:
            self._signature.bind(node, *inputs, **attributes)
        except TypeError as error:
            raise unsupported(node, f"it breaks its schema: {error}. Export the model again") from None
        return self.function(node, *inputs, **attributes)

    def input_name(self, index: int) -> str | None:
        """The parameter that takes input ``index``; None if there is none."""
        names = []
        for parameter in self._parameters:
            if parameter.kind is parameter.VAR_POSITIONAL:
                return parameter.name
            if parameter.kind is not parameter.KEYWORD_ONLY:
                names.append(parameter.name)
        return names[index] if index < len(names) else None

    @functools.cached_property
    def attributes(self) -> frozenset[str]:
        """The attributes it takes."""
        return frozenset(p.name for p in self._parameters if p.kind is p.KEYWORD_ONLY)


_HANDLERS: dict[tuple[str, str, int], Handler] = {}


def register(
    op_type: str,
    *since_versions: int,
    domain: str = "",
    learned: tuple[str, ...] = (),
    learned_arrays: tuple[str, ...] = (),
    moved: tuple[str, ...] = (),
    known: tuple[str, ...] = (),
    real: Callable[[ir.Value], Tensor | None] | None = None,
) -> Callable[[F], F]:
    """Enter a function as the handler of an operator, for the schema versions it was tested on.

    Args:
        op_type: The operator.
        since_versions: Its schema versions.
        domain: Its domain, "" for ai.onnx.
        learned: See ``Handler``, as for the others.
        learned_arrays: Inputs whose constants may be weights.
        moved: Inputs whose numbers are only moved.
        known: Inputs whose constants are Python numbers.
        real: What a constant in codes stands for.
    """

    def enter(function: F) -> F:
        handler = Handler(
            function,
            frozenset(learned),
            frozenset(learned_arrays),
            frozenset(moved),
            frozenset(known),
            real,
        )
        for version in since_versions:
            assert (domain, op_type, version) not in _HANDLERS, (op_type, version)
            _HANDLERS[domain, op_type, version] = handler
        return function

    return enter


def supported() -> dict[str, list[int]]:
    """Every operator with a handler, and the schema versions handled: the support table."""
    table: dict[str, list[int]] = {}
    for domain, op_type, version in sorted(_HANDLERS):
        table.setdefault(f"{domain}::{op_type}" if domain else op_type, []).append(version)
    return table


def lookup(node: ir.Node, opset: int) -> Handler:
    """Return the handler whose schema is in force at ``opset`` of the node's domain.

    Raises:
        UnsupportedOpError: There is none.
    """
    version = _since_version(node, opset)
    handler = _HANDLERS.get((node.domain, node.op_type, version))
    if handler is None:
        raise UnsupportedOpError(f"{_described(node, version)}: it {_why_not(node)}.")
    return handler


def _described(node: ir.Node, version: int | None = None) -> str:
    suffix = "" if version is None else f", version {version}"
    return f"{node.op_type} {node.name!r} (domain {node.domain or 'ai.onnx'!r}{suffix})"


def _why_not(node: ir.Node) -> str:
    """Why an operator has no handler, and the way out."""
    domains = {domain for domain, _, _ in _HANDLERS}
    versions = sorted(v for domain, op, v in _HANDLERS if (domain, op) == (node.domain, node.op_type))
    kinds = [reason for value in (*node.inputs, *node.outputs) if value and (reason := no_tensor(value))]
    if node.op_type == "If" and node.domain == "":
        return "branches by the data. Export the model with one branch, or cut this part off"
    if any(attribute.type is ir.AttributeType.GRAPH for attribute in node.attributes.values()):
        return "is a loop, and loops are not unrolled. Export the model with it unrolled, or cut it off"
    if node.domain not in domains:
        return (
            f"is not handled, nor is anything of the domain {node.domain!r}. Export the model with operators "
            "of ai.onnx in its place, or cut this part off"
        )
    if kinds:
        return f"takes or gives {kinds[0]}"
    if versions:
        return (
            f"is not handled, versions {', '.join(map(str, versions))} are. Convert the model to opset 21, "
            "or export it again at that opset"
        )
    return "is not handled in any version. Export the model with other operators in its place, or cut it off"


def no_tensor(value: ir.Value) -> str | None:
    """What a value is, if it is not a tensor that torch can hold, and the way out."""
    kind = None
    if isinstance(value.type, ir.SequenceType | ir.OptionalType):
        kind = "a sequence" if isinstance(value.type, ir.SequenceType) else "an optional"
    elif value.dtype is ir.DataType.STRING:
        kind = "text"
    elif value.dtype is not None and value.dtype not in TORCH_DTYPES:
        return f"{value.dtype.name}, which torch cannot hold. Export the model with another type"
    return kind and f"{kind}, and only tensors of numbers are handled. Cut this part off the model"


def _since_version(node: ir.Node, opset: int) -> int:
    try:
        return int(onnx.defs.get_schema(node.op_type, opset, node.domain).since_version)
    except onnx.defs.SchemaError:
        return opset  # a custom domain: ONNX has no schema, so match the version exactly


def unsupported(node: ir.Node, reason: str) -> UnsupportedOpError:
    """The error of a handler that cannot serve a node; ``import_graph`` collects them into one message."""
    return UnsupportedOpError(f"{_described(node)}: {reason}.")


def parts(results: Any, node: ir.Node) -> tuple[Any, ...]:
    """The results of a leaf that gives a tuple, one for each output of the node."""
    if isinstance(results, fx.Proxy):
        results.node.meta["onnx_op"] = node.op_type  # it makes no ONNX value itself, its parts do
    return tuple(results[index] for index in range(len(node.outputs)))


def integers(value: Tensor | tuple[int, ...] | int) -> tuple[int, ...]:
    """The numbers of a ``known`` input: constant, or a tensor that is read now. Only inside of leaves."""
    numbers = value.tolist() if isinstance(value, Tensor) else value
    return (numbers,) if isinstance(numbers, int) else tuple(numbers)


def leaf(function: Callable[P, R]) -> Callable[P, R]:
    """Let a function of tensors be one step of the graph: on proxies it is recorded, not entered.

    So that every ONNX node is one node of the torch graph, and code that depends on the rank runs when
    the rank is known.
    """

    @functools.wraps(function)
    def call(*args: P.args, **kwargs: P.kwargs) -> R:
        for argument in args:
            if isinstance(argument, fx.Proxy):
                return cast(R, argument.tracer.create_proxy("call_function", call, args, kwargs))
        return function(*args, **kwargs)

    return call
