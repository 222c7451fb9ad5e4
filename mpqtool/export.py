"""torch -> ONNX: write a torch network as the plain float ONNX file that everything here starts from."""

from __future__ import annotations

__all__ = ["export_onnx", "parse_shape"]

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

from mpqtool.passes.normalize.naming import name_pass
from mpqtool.passes.pipelines import normalize

from .errors import ModelError, OptionError
from .factory import first_line, make_network
from .files import replacing
from .state_dict import load_weights

logger = logging.getLogger(__name__)

_RANDOM = (
    "Bernoulli", "Dropout", "Multinomial", "RandomNormal", "RandomNormalLike", "RandomUniform",
    "RandomUniformLike",
)  # fmt: skip  # of Dropout, normalize leaves what is in training mode
_SHOWN = 8  # names in a warning
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

    ConvTranspose and MatMul of rank 3 and more stay what they are, as this file is to run in float;
    ``quantize`` rewrites them.

    Initializers have the names of the parameters, of those that share one tensor the first name. A
    parameter that is not in the file under its name, since ``forward`` does not use it or torch writes it
    in another form (LSTM, weight_norm), is named in a warning. The input has the name of the parameter of
    ``forward``; the output is ``output``, or ``output_0``, ``output_1`` and so on.

    Args:
        model: The network, or ``package.module:factory``, a callable that makes it.
        out: The ONNX file; appears whole or not at all.
        input_shape: Shape of one sample, without the batch: ``(1, 28, 28)`` or ``"1,28,28"``. None: the
            network's own attribute ``input_shape``.
        weights: State dictionary, ``.safetensors`` or what ``torch.save`` wrote. None: as the network is.
        arg: Arguments of the factory, ``{"in_channels": 1}`` or ``("in_channels=1",)``. Text is read as a
            Python literal; true, false and none in any case.
        seed: Seed of weights that the factory draws.

    Returns:
        The path of the file.

    Raises:
        OptionError: There is no such factory, it does not take these arguments or does not make a network,
            or the input shape is missing.
        DataError: The weights cannot be read, or do not fit the network.
        ModelError: The network raises, or torch cannot express it as ONNX.
        OSError: The file cannot be written.
    """
    if arg and not isinstance(model, str):
        raise OptionError(f"arg is for a factory, and a network was given; got {arg!r}. Leave it out.")
    module = make_network(model, arg, seed) if isinstance(model, str) else model
    if not isinstance(module, nn.Module):
        raise OptionError(
            f"The network must be a torch.nn.Module or package.module:factory; got {module!r}. "
            "Give an instance, not a class."
        )
    shape = parse_shape(getattr(module, "input_shape", None) if input_shape is None else input_shape)
    if weights is not None:
        load_weights(module, weights)
    modes = {part: part.training for part in module.modules()}  # frozen parts have one of their own
    try:
        traced = _trace(module.eval(), shape)
        _share(traced.graph, module)
        plain = _plain(normalize(traced, parameters=module.state_dict(), for_integers=False))
    finally:
        for part, training in modes.items():
            part.training = training
    _check(plain.graph, module)
    out = pathlib.Path(out)
    with replacing(out) as beside:
        ir.save(plain, beside)
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
        if _takes_integers(module, shape):
            raise ModelError(
                "The network takes integers, and a network with one float32 input can be exported. "
                "Use torch.onnx.export for this one."
            ) from None
        raise ModelError(
            f"forward raised {type(error).__name__}: {first_line(error)}, for a {like.dtype} input of shape "
            f"{[2, *shape]}. If one sample has another shape, give it as --input-shape; else change forward."
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
            # torch names what operators make after them, mean say, and looks at no weight of that name.
            model = ir.from_proto(ir.to_proto(name_pass()(program.model).model))
    except Exception as error:  # the exporter raises many kinds
        raise ModelError(
            f"torch cannot export the network: {first_line(_deepest(error))}. Rewrite this part of forward."
        ) from error
    shapes = [value.shape for value in model.graph.outputs if value.shape]
    if any(found.is_static(0) for found in shapes):
        raise ModelError(
            "The network fixes the batch size: an output has no free first dimension. Use x.shape[0] or "
            "torch.flatten(x, 1) in forward in place of a number."
        )
    return model


def _plain(model: ir.Model) -> ir.Model:
    """Only operators of ONNX itself."""
    passes = ir.passes.Sequential(
        common.InlinePass(),
        common.RemoveUnusedNodesPass(),
        common.RemoveUnusedOpsetsPass(),
        common.ShapeInferencePass(),
        common.ClearMetadataAndDocStringPass(),  # which pass made a node
    )
    return passes(model).model


def _share(graph: ir.Graph, module: nn.Module) -> None:
    """Give a tensor with several names in the network its first one; torch takes the last."""
    first: dict[int, str] = {}
    for name, tensor in module.state_dict(keep_vars=True).items():
        own = first.setdefault(id(tensor), name)
        if own == name or name not in graph.initializers:
            continue
        if own in graph.initializers:
            graph.initializers.pop(name).replace_all_uses_with(graph.initializers[own])
        else:
            graph.initializers[name].name = own


def _check(graph: ir.Graph, module: nn.Module) -> None:
    """Refuse chance, and name the parameters that cannot be found in the file."""
    for node in graph.all_nodes():
        if node.op_type in _RANDOM:
            raise ModelError(
                f"forward draws random numbers ({node.op_type}), so no two runs of the file would agree. "
                "Draw them only if self.training."
            )
    lost = [name for name, _ in module.named_parameters() if name not in graph.initializers]
    if lost:
        logger.warning(
            "not in the file under their names, as forward does not use them or torch writes them in another "
            "form: %s%s",
            ", ".join(lost[:_SHOWN]),
            f" and {len(lost) - _SHOWN} more" if len(lost) > _SHOWN else "",
        )


def _takes_integers(module: nn.Module, shape: tuple[int, ...]) -> bool:
    device = next((parameter.device for parameter in module.parameters()), None)
    with contextlib.suppress(Exception), torch.no_grad():  # forward raised before
        module(torch.zeros(2, *shape, dtype=torch.int64, device=device))
        return True
    return False


def _input_name(module: nn.Module) -> str:
    """The one parameter of forward that takes the samples."""
    signature = inspect.signature(module.forward)
    parameters = signature.parameters.values()
    given = [p.name for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    variable = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    needed = [p.name for p in parameters if p.default is p.empty and p.kind not in variable]
    if not given or len(needed) > 1:
        raise ModelError(
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
