"""Write a torch module as a float ONNX file that keeps its BatchNormalization and its parameter names."""

from __future__ import annotations

__all__ = ["export_onnx"]

import contextlib
import logging
import os
import pathlib
import warnings
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import onnx_ir as ir
import onnx_ir.passes.common as common_passes
import torch
from onnxscript import optimizer
from onnxscript.rewriter import rewrite
from onnxscript.rewriter.rules import common as rules
from torch import nn

from .errors import ModelError, OptionError
from .files import replacing
from .locate import locate

logger = logging.getLogger(__name__)

_OPSET = 18
_BATCH = 2  # of the samples that are traced: 1 would be taken for a constant


def export_onnx(
    model: nn.Module | str,
    out: str | os.PathLike[str],
    *,
    inputs: Mapping[str, Sequence[int | None]] | None = None,
    arguments: Mapping[str, Any] | None = None,
    weights: str | os.PathLike[str] | None = None,
) -> pathlib.Path:
    """Write a module to an ONNX file, in evaluation mode, opset 18.

    Args:
        model: A module, or ``package.module:factory`` of a callable that returns one.
        out: The ONNX file; appears whole or not at all.
        inputs: Name and shape of each input, None for a free dimension. Without it there is one input
            ``x`` whose size is taken from the first layer, and is said in the log: pictures of 32x32
            for a convolution.
        arguments: Keyword arguments of the factory.
        weights: A ``.safetensors`` file with the module's parameters; other entries are left alone.

    Returns:
        The path of the file.

    Raises:
        OptionError: The factory, its arguments or the shapes cannot be used.
        ModelError: The weights do not fit, or torch cannot export the module.
    """
    module = _make(model, arguments or {})
    if weights is not None:
        _load_weights(module, pathlib.Path(weights))
    shapes = dict(inputs) if inputs else {"x": _guess_shape(module)}
    program = _trace(module.eval(), shapes)
    _tidy(program.model)
    out = pathlib.Path(out)
    with replacing(out) as beside:
        ir.save(program.model, beside)
    return out


def _make(model: nn.Module | str, arguments: Mapping[str, Any]) -> nn.Module:
    if isinstance(model, nn.Module):
        if arguments:
            raise OptionError("arguments are for a factory, and a module was given")
        return model
    factory = locate(model, OptionError)
    try:
        module: object = factory(**arguments)
    except Exception as error:  # a user's factory may raise anything
        raise OptionError(f"{model!r} raised {type(error).__name__}: {error}") from error
    if not isinstance(module, nn.Module):
        raise OptionError(f"{model!r} returned a {type(module).__name__}; it must return a torch.nn.Module")
    return module


def _load_weights(module: nn.Module, path: pathlib.Path) -> None:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    if not path.is_file():
        raise ModelError(f"No such file: {str(path)!r}")
    try:
        tensors = load_file(path)
    except (SafetensorError, OSError) as error:
        raise ModelError(f"{str(path)!r} is not a .safetensors file: {error}") from error
    wanted = module.state_dict()
    missing = [name for name in wanted if name not in tensors and not name.endswith("num_batches_tracked")]
    if missing:
        raise ModelError(f"{str(path)!r} lacks {len(missing)} of the module's tensors, e.g. {missing[0]!r}")
    for name, tensor in wanted.items():
        if name in tensors and tensors[name].shape != tensor.shape:
            raise ModelError(
                f"{str(path)!r}: {name!r} has shape {tuple(tensors[name].shape)}, the module's has "
                f"{tuple(tensor.shape)}"
            )
    module.load_state_dict({name: tensors[name] for name in wanted if name in tensors}, strict=False)


def _guess_shape(module: nn.Module) -> tuple[int | None, ...]:
    for name, layer in module.named_modules():
        if isinstance(layer, nn.Conv2d):
            shape: tuple[int | None, ...] = (None, layer.in_channels, 32, 32)
        elif isinstance(layer, nn.Linear):
            shape = (None, layer.in_features)
        else:
            continue
        logger.warning("no input shape given: taking x = %s from the layer %r", shape_text(shape), name)
        return shape
    raise OptionError(
        "The module has no Conv2d or Linear to tell its input from; give --input NAME=Nx3x32x32"
    )


def shape_text(shape: Sequence[int | None]) -> str:
    """Write a shape as ``Nx3x32x32``."""
    return "x".join("N" if size is None else str(size) for size in shape)


def _trace(module: nn.Module, shapes: Mapping[str, Sequence[int | None]]) -> torch.onnx.ONNXProgram:
    batch = torch.export.Dim("N", min=1)
    samples, dynamic = [], []
    for name, shape in shapes.items():
        if any(size is None for size in shape[1:]):
            raise OptionError(
                f"Input {name!r}: only the first dimension can be free, got {shape_text(shape)}"
            )
        samples.append(torch.zeros([_BATCH if size is None else size for size in shape]))
        dynamic.append({0: batch} if shape and shape[0] is None else {})
    outputs = _outputs(module, samples, shapes)
    with _quiet():
        try:
            program = torch.onnx.export(
                module,
                tuple(samples),
                dynamo=True,
                input_names=list(shapes),
                output_names=outputs,
                dynamic_shapes=tuple(dynamic),
                opset_version=_OPSET,
                optimize=False,  # torch's own folds BatchNormalization, which training wants kept
                verbose=False,
            )
        except Exception as error:  # torch raises many kinds, of its own and of Python
            first = str(error.__cause__ or error).strip().splitlines() or [type(error).__name__]
            raise ModelError(f"torch cannot export the module: {first[0]}") from error
    assert program is not None  # None comes of the exporter before dynamo
    return program


def _outputs(module: nn.Module, samples: list[torch.Tensor], shapes: Mapping[str, Any]) -> list[str]:
    try:
        with torch.no_grad():
            result = module(*samples)
    except (RuntimeError, TypeError, ValueError, IndexError) as error:
        given = ", ".join(f"{name}={shape_text(shape)}" for name, shape in shapes.items())
        raise OptionError(
            f"The module does not run on inputs {given}: {str(error).splitlines()[0]}. "
            "Give --input NAME=SHAPE."
        ) from error
    if isinstance(result, torch.Tensor):
        return ["y"]
    return [f"y{i}" for i in range(len(result))]


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep torch's remarks about its own internals and about packages we do not use from the user."""
    talker = logging.getLogger("torch.onnx")
    level = talker.level
    talker.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        talker.setLevel(level)


def _tidy(model: ir.Model) -> None:
    """Fold what torch writes about shapes; keep everything that has weights.

    onnxscript's whole optimizer would also fold BatchNormalization, so its parts are chosen here.
    """
    optimizer.fold_constants(model)
    rewrite(
        model,
        pattern_rewrite_rules=[
            rules.remove_optional_bias_from_conv_rule,  # torch spells "no bias" as zeros
            rules.materialize_reshape_shape_rule,
        ],
    )
    common_passes.RemoveUnusedNodesPass()(model)
    common_passes.LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0)(model)
    common_passes.ClearMetadataAndDocStringPass()(model)
