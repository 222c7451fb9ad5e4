"""torch -> ONNX: write a torch network as the plain float ONNX file that everything here starts from."""

from __future__ import annotations

__all__ = ["export_onnx", "parse_shape"]

import ast
import contextlib
import inspect
import io
import logging
import os
import pathlib
import re
import warnings
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import onnx_ir as ir
import torch
from onnx_ir.passes import common
from torch import Tensor, nn

from mpqtool.passes.normalize import RemoveZeroBiasPass
from mpqtool.passes.pipelines import normalize

from .errors import ModelError, OptionError
from .files import replacing
from .locate import locate
from .state_dict import load_weights

_OPSET = 20  # the newest that torch writes without a conversion of its own; normalize raises it


def export_onnx(
    model: nn.Module | str,
    out: str | os.PathLike[str],
    *,
    input_shape: Sequence[int] | str | None = None,
    weights: str | os.PathLike[str] | None = None,
    arg: Mapping[str, Any] | Sequence[str] = (),
    seed: int = 0,
) -> pathlib.Path:
    """Write a torch network as ONNX: normal form, BatchNormalization kept, any number of samples.

    Initializers have the names of the parameters, the input that of the parameter of ``forward``; the
    output is ``output``, or ``output_0``, ``output_1`` and so on.

    Args:
        model: The network, or ``package.module:factory``, a callable that makes it.
        out: The ONNX file; appears whole or not at all.
        input_shape: Shape of one sample, without the batch: ``(1, 28, 28)`` or ``"1,28,28"``. None: the
            network's own attribute ``input_shape``.
        weights: State dictionary, ``.safetensors`` or what ``torch.save`` wrote. None: as the network is.
        arg: Arguments of the factory, ``{"in_channels": 1}`` or ``("in_channels=1",)``.
        seed: Seed of weights that the factory draws.

    Returns:
        The path of the file.

    Raises:
        OptionError: There is no such factory, it does not take these arguments or does not make a network,
            the weights do not fit it, or the input shape is missing or does not fit.
        ModelError: torch cannot express the network as ONNX.
    """
    if arg and not isinstance(model, str):
        raise OptionError(f"arg is for a factory, and a network was given; got {arg!r}. Leave it out.")
    module: object = _make(model, _arguments(arg), seed) if isinstance(model, str) else model
    if not isinstance(module, nn.Module):
        raise OptionError(
            f"{model!r} gives a {type(module).__name__}, and a torch.nn.Module is needed. "
            "Name a function or class that makes a network."
        )
    shape = parse_shape(getattr(module, "input_shape", None) if input_shape is None else input_shape)
    if weights is not None:
        load_weights(module, weights)
    modes = {part: part.training for part in module.modules()}  # frozen parts have one of their own
    try:
        graph = _plain(normalize(_trace(module.eval(), shape)), module)
    finally:
        for part, training in modes.items():
            part.training = training
    out = pathlib.Path(out)
    with replacing(out) as beside:
        ir.save(graph, beside)
    return out


def parse_shape(shape: object) -> tuple[int, ...]:
    """Read a shape, ``"1,28,28"`` or ``(1, 28, 28)``.

    Raises:
        OptionError: There is none, or it holds something else than positive integers.
    """
    if shape is None:
        raise OptionError(
            "The network has no attribute input_shape. Give the shape of one sample: --input-shape 3,32,32"
        )
    parts = shape.split(",") if isinstance(shape, str) else list(shape) if isinstance(shape, Sequence) else []
    if not parts or not all(re.fullmatch(r"\s*0*[1-9]\d*\s*", str(part)) for part in parts):
        raise OptionError(
            "--input-shape must be positive integers between commas, without the batch, as 3,32,32; "
            f"got {shape!r}"
        )
    return tuple(int(part) for part in parts)


def _arguments(arg: Mapping[str, Any] | Sequence[str]) -> dict[str, Any]:
    """Read ``name=value``, the value a Python literal or else text."""
    if isinstance(arg, Mapping):
        return dict(arg)
    arguments: dict[str, Any] = {}
    for text in [arg] if isinstance(arg, str) else arg:
        name, equals, value = text.partition("=")
        if not equals or not name.isidentifier() or name in arguments:
            raise OptionError(f"--arg must be NAME=VALUE, as in_channels=1, once for each name; got {text!r}")
        try:
            arguments[name] = ast.literal_eval(value)
        except (ValueError, TypeError, SyntaxError):
            arguments[name] = value
    return arguments


def _make(spec: str, arguments: dict[str, Any], seed: int) -> object:
    """Call the factory, with the seed set for it alone."""
    factory = locate(spec, OptionError)
    try:
        inspect.signature(factory).bind(**arguments)
    except TypeError as error:
        raise OptionError(
            f"{spec!r} cannot be called with {arguments or 'no arguments'}: {error}. "
            "Give its arguments as --arg NAME=VALUE."
        ) from None
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        try:
            return factory(**arguments)
        except Exception as error:  # a user's factory may raise anything
            raise OptionError(f"{spec!r} raised {type(error).__name__}: {_first_line(error)}") from error


def _trace(module: nn.Module, shape: tuple[int, ...]) -> ir.Model:
    """Export with a free batch size; two samples, as torch takes a size of 1 for a constant."""
    taken = set(module.state_dict())
    input_name = _unused(_input_name(module), taken)
    like = next(module.parameters(), torch.empty(0))
    try:
        with torch.no_grad():
            example = torch.zeros(2, *shape, dtype=like.dtype, device=like.device)
            outputs = module(example)
    except Exception as error:  # whatever the user's forward raises
        raise OptionError(
            f"The network does not take a {like.dtype} input of shape {[2, *shape]}: {type(error).__name__}: "
            f"{_first_line(error)}. Give the shape of one sample with --input-shape."
        ) from error
    several = isinstance(outputs, tuple | list)
    returned = outputs if several else [outputs]
    if not returned or not all(isinstance(output, Tensor) for output in returned):
        raise ModelError(
            f"The network returns ({', '.join(type(output).__name__ for output in returned)}), and a tensor "
            "or a tuple of tensors can be exported. Return one from forward."
        )
    output_names = [f"output_{i}" for i in range(len(returned))] if several else ["output"]
    try:
        with _quiet():
            program = torch.onnx.export(
                module,
                (example,),
                dynamo=True,
                optimize=False,  # else BatchNormalization is folded
                opset_version=_OPSET,
                dynamic_shapes=({0: torch.export.Dim("batch", min=1)},),
                input_names=[input_name],
                output_names=[_unused(name, {input_name, *taken}) for name in output_names],
                verbose=False,
            )
            assert program is not None  # it is None without dynamo
            model = ir.from_proto(program.model_proto)
    except Exception as error:  # the exporter raises many kinds
        raise ModelError(
            f"torch cannot export the network: {_first_line(_deepest(error))}. Rewrite this part of forward."
        ) from error
    shapes = [value.shape for value in model.graph.outputs if value.shape]
    if any(found.is_static(0) for found in shapes):
        raise ModelError(
            "The network fixes the batch size: an output has no free first dimension. Use x.shape[0] or "
            "torch.flatten(x, 1) in forward in place of a number."
        )
    return model


def _plain(model: ir.Model, module: nn.Module) -> ir.Model:
    """Only operators of ONNX itself, and only weights that the network has: torch adds biases of zeros."""
    passes = ir.passes.Sequential(
        RemoveZeroBiasPass(module.state_dict()),
        common.InlinePass(),
        common.RemoveUnusedNodesPass(),
        common.RemoveUnusedOpsetsPass(),
        common.ShapeInferencePass(),
    )
    return passes(model).model


def _input_name(module: nn.Module) -> str:
    """The one parameter of forward that takes the samples."""
    signature = inspect.signature(module.forward)
    parameters = signature.parameters.values()
    given = [p.name for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    variable = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    needed = [p.name for p in parameters if p.default is p.empty and p.kind not in variable]
    if not given or len(needed) > 1:
        raise OptionError(
            f"The network has forward{signature}, and one input, given by position, can be exported. "
            "Wrap it in a network of that form."
        )
    return given[0]


def _unused(name: str, taken: set[str]) -> str:
    """Torch would take an input that has the name of a weight for that weight."""
    while name in taken:
        name += "_"
    return name


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep from the user what torch logs, warns and prints about its internals: what matters is raised."""
    disabled = logging.root.manager.disable
    logging.disable()
    try:
        with (
            warnings.catch_warnings(action="ignore"),
            contextlib.redirect_stdout(io.StringIO()),
            contextlib.redirect_stderr(io.StringIO()),
        ):
            yield
    finally:
        logging.disable(disabled)


def _deepest(error: BaseException) -> BaseException:
    while error.__cause__ is not None:
        error = error.__cause__
    return error


def _first_line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0].rstrip(".") if lines else type(error).__name__
