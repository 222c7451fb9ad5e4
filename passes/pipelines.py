"""The stages that turn a float model into an integer one, each ONNX -> ONNX."""

from __future__ import annotations

__all__ = [
    "absorb_bias",
    "canonical_qdq",
    "equalize",
    "fold_batch_norm",
    "insert_batch_norm",
    "lower",
    "lower_like",
    "normalize",
    "positive_batch_norm",
    "quantize",
    "rescale_depthwise",
]

import re
from collections.abc import Collection, Iterable, Mapping

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from . import metadata
from .equalize import (
    AbsorbBiasPass,
    ChannelStatistics,
    EqualizeLayersPass,
    Maxima,
    RescaleDepthwisePass,
)
from .errors import ModelError, PassError
from .lower import lowering_passes
from .lower.canonical import canonical_passes
from .lower.keep_float import kept_float
from .normalize import (
    FoldBatchNormPass,
    InferShapesPass,
    InsertBatchNormPass,
    PositiveBatchNormPass,
    normal_form,
)
from .normalize.opset import IR_VERSION, OPSET
from .plan import Plan
from .quantize import InsertQdqPass, complete
from .values import gathered_names

_FLOATS_TO_CONVERT = (ir.DataType.DOUBLE, ir.DataType.FLOAT16, ir.DataType.BFLOAT16)


def normalize(
    model: ir.Model,
    *,
    fold_batch_norm: bool = False,
    parameters: Collection[str] | None = None,
    for_integers: bool = True,
) -> ir.Model:
    """The normal form of a float model: opset 21, one spelling for each layer, constants computed.

    Operators that have no normal form stay as they are, in their place.

    Args:
        model: Left as it is.
        fold_batch_norm: Also fold BatchNormalization into the layer before it, as the last step, so
            that all other names are the same either way.
        parameters: Names of all parameters, if they are known. A bias of zeros is then kept if it is one of
            them, and else dropped; without, one before BatchNormalization is dropped.
        for_integers: Whether layers that run in integers only in another form get it; see ``normal_form``.

    Raises:
        ModelError: The opset cannot be converted, or the model computes in another float type.
    """
    result = _run(normal_form(parameters, for_integers=for_integers), model.clone())
    for value in (*result.graph.inputs, *result.graph.initializers.values()):
        if value.dtype in _FLOATS_TO_CONVERT:
            raise ModelError(
                f"Cannot use {value.name!r}: it is {value.dtype.name}; float32 is supported. "
                "Convert the model to float32 before."
            )
    return _run(FoldBatchNormPass(), result) if fold_batch_norm else result


def fold_batch_norm(model: ir.Model) -> ir.Model:
    """A normal model with BatchNormalization folded: the last step of ``normalize``, for changed weights.

    Args:
        model: Normal form; left as it is.
    """
    return _run(FoldBatchNormPass(), model.clone())


def insert_batch_norm(
    model: ir.Model, statistics: Mapping[str, tuple[NDArray[np.float64], NDArray[np.float64]]]
) -> ir.Model:
    """A normal model that computes the same, with BatchNormalization put back where a file has it folded.

    Args:
        model: Normal form; left as it is.
        statistics: By name of a value of ``without_batch_norm``: its mean and its variance, ``(kernels,)``.

    Raises:
        PassError: A name is none of those.
    """
    return _run(InsertBatchNormPass(statistics), model.clone())


def positive_batch_norm(model: ir.Model) -> ir.Model:
    """A normal model that computes the same, with no BatchNormalization that turns the sign of a kernel.

    Folding it multiplies every kernel by 0 or more, so that codes keep their values, on the full grid too.

    Args:
        model: Normal form; left as it is.
    """
    return _run(PositiveBatchNormPass(), model.clone())


def equalize(model: ir.Model, maxima: Maxima | None = None) -> ir.Model:
    """A model that computes the same, with weights of like size in all channels of layers in a row.

    Args:
        model: Normal form with BatchNormalization folded; left as it is.
        maxima: By name of the values of ``equalize.clipped_values``: the largest number in each channel on
            data, ``(channels,)``; None: layers with such a Clip between stay as they are.

    Raises:
        PassError: Maxima do not fit the model.
    """
    return _run(EqualizeLayersPass(maxima), model.clone())


def absorb_bias(model: ir.Model, statistics: Mapping[str, ChannelStatistics]) -> ir.Model:
    """A model that computes the same on the data measured, with activations that begin closer to 0.

    Args:
        model: Normal form with BatchNormalization folded; left as it is.
        statistics: By name of the values of ``equalize.absorbable_values``, of this model.

    Raises:
        PassError: Statistics do not fit the model.
    """
    return _run(AbsorbBiasPass(statistics), model.clone())


def rescale_depthwise(model: ir.Model, maxima: Maxima | None = None) -> ir.Model:
    """A model that computes the same, with depthwise kernels of one size before 1x1 convolutions.

    Args:
        model: Normal form with BatchNormalization folded; left as it is.
        maxima: As for ``equalize``.

    Raises:
        PassError: Maxima do not fit the model.
    """
    return _run(RescaleDepthwisePass(maxima), model.clone())


def quantize(model: ir.Model, plan: Plan) -> ir.Model:
    """The model with every tensor of the plan on its grid, as QuantizeLinear / DequantizeLinear pairs.

    Args:
        model: Normal form with BatchNormalization folded; left as it is.
        plan: Activations complete; a weight scale of None is fitted to the weights.

    Raises:
        PlanError: The plan does not fit the model.
    """
    complete_plan = complete(model, plan)
    return _run_each([InsertQdqPass(complete_plan), InferShapesPass()], model.clone())


def canonical_qdq(model: ir.Model) -> ir.Model:
    """A QDQ model of another tool in the form of ours: what ``lower`` starts from.

    Args:
        model: QDQ; left as it is.

    Raises:
        ModelError: The model is an integer file already.
    """
    _refuse_integers(model)
    return _run_each(canonical_passes(), model.clone())


def lower(
    model: ir.Model,
    *,
    target: str = "cpu",
    vnni: bool = False,
    float_layers: Mapping[str, str] | None = None,
) -> ir.Model:
    """The integer form of a QDQ model, with the weights packed.

    Operators without an integer form stay float, each with a note why.

    Args:
        model: QDQ, of ``quantize`` or of another tool; left as it is.
        target: What it is to run on.
        vnni: Whether it is for CPUs with VNNI only: all weights are int8 then, which saturates on others.
        float_layers: Operators to leave in float although they could be integer: why, by the name of their
            first output.

    Raises:
        PassError: The target is unknown, or an operator of ``float_layers``.
        ModelError: The model is an integer file already.
    """
    return _lower(model, lowering_passes(target, vnni=vnni, float_layers=float_layers))


def lower_like(model: ir.Model, integer: ir.Model, *, target: str | None = None) -> ir.Model:
    """The integer form of a QDQ model, made with the choices that are noted in an integer file.

    Args:
        model: QDQ; left as it is.
        integer: Whose choices they are: for CPUs with VNNI only, and what stays float.
        target: What it is to run on; None: that of the file.
    """
    passes = lowering_passes(
        integer.metadata_props.get(metadata.TARGET, "cpu") if target is None else target,
        vnni=metadata.VNNI in integer.metadata_props,
        float_layers=kept_float(integer),
        ignore_unknown=True,  # the files may not belong together, which is for the caller to see
    )
    return _lower(model, passes)


def _lower(model: ir.Model, passes: Iterable[ir.passes.PassBase]) -> ir.Model:
    _refuse_integers(model)
    result = _run_each(passes, model.clone())
    result.ir_version = IR_VERSION
    return result


def _refuse_integers(model: ir.Model) -> None:
    target = model.metadata_props.get(metadata.TARGET)
    if target is not None:
        raise ModelError(
            f"Cannot lower the model: it is an integer file for target {target!r}, allowed QDQ models. "
            "Lower the QDQ file that it was made of."
        )


def _run_each(passes: Iterable[ir.passes.PassBase], model: ir.Model) -> ir.Model:
    """Run passes that name values by ``unused_name`` alone: each gathers the names once."""
    for pass_ in passes:
        with gathered_names(model.graph):
            model = _run(ir.passes.Sequential(pass_), model)
    return model


def _run(pass_: ir.passes.PassBase, model: ir.Model) -> ir.Model:
    """Run a pass; what it says about the user's model is not wrapped, and other errors get its name.

    Raises:
        PassError: What a pass says about the model.
        ModelError: A pass failed in another way.
    """
    try:
        return pass_(model).model
    except ir.passes.PassError as error:
        cause, failed = _first_cause(error)
        if isinstance(cause, PassError):
            raise cause from None
        reason = " ".join(str(cause).split())
        raise ModelError(
            f"Cannot use the model: {failed or type(pass_).__name__} failed on it with "
            f"{type(cause).__name__}: {reason}. Export the model again at opset {OPSET}."
        ) from error


def _first_cause(error: ir.passes.PassError) -> tuple[BaseException, str]:
    """What went wrong, and the name of the innermost pass that it went wrong in."""
    cause: BaseException = error
    name = ""
    while cause.__cause__ is not None:
        found = re.match(r"An error occurred when running the '<?([\w.]+)", str(cause))
        name = found[1].rpartition(".")[2] if found else name
        cause = cause.__cause__
    return cause, name
