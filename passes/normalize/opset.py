"""Bring a model to the opset and IR version that the passes work on."""

from __future__ import annotations

__all__ = ["IR_VERSION", "OPSET", "ConvertOpsetPass"]

import logging

import onnx
import onnx.version_converter
import onnx_ir as ir
from onnxscript import version_converter

from ..errors import ModelError
from ..load import NEWEST_OPSET, OLDEST_OPSET

logger = logging.getLogger(__name__)

OPSET = 21
IR_VERSION = 10

_OLDEST_OF_ONNXSCRIPT = 18


class ConvertOpsetPass(ir.passes.InPlacePass):
    """Convert the standard operators from opset 7 ... 26 to 21, and the file format to IR 10.

    Up from 18 by onnxscript's converter, which keeps everything else about a node; from other
    versions, older and newer, by the one of ``onnx``, which keeps the names. Nodes of custom
    domains are left as they are. A model of opset 21 and IR 10 is left alone.

    Model-local functions and initializers among the inputs must be gone: the converters of ONNX do
    not look into the former and mix up the latter.
    """

    def requires(self, model: ir.Model) -> None:
        if model.functions or any(value.is_initializer() for value in model.graph.inputs):
            raise ir.passes.PreconditionError(
                "ConvertOpsetPass needs a model without functions and without initializers among its "
                "inputs; run InlinePass and RemoveInitializersFromInputsPass first."
            )

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        imports = model.graph.opset_imports
        if "ai.onnx" in imports:  # the long name of the standard domain
            imports.setdefault("", imports.pop("ai.onnx"))
        opset = imports.get("")
        if opset is None or not OLDEST_OPSET <= opset <= NEWEST_OPSET:
            raise ModelError(
                f"Cannot convert the model to opset {OPSET}: it declares opset {opset}; "
                f"{OLDEST_OPSET} to {NEWEST_OPSET} can be read. Export it again at opset {OPSET}."
            )
        modified = opset != OPSET or model.ir_version != IR_VERSION
        model.ir_version = IR_VERSION
        if opset != OPSET:
            _convert(model, opset)
            logger.info("Converted the model from opset %d to %d", opset, OPSET)
        return ir.passes.PassResult(model, modified=modified)


def _convert(model: ir.Model, opset: int) -> None:
    if _OLDEST_OF_ONNXSCRIPT <= opset < OPSET:
        version_converter.convert_version(model, OPSET)
        return
    try:
        converted = onnx.version_converter.convert_version(ir.to_proto(model), OPSET)
    except (RuntimeError, ValueError, onnx.version_converter.ConvertError) as error:
        reason = str(error).strip().splitlines()[0]
        raise ModelError(
            f"Cannot convert the model from opset {opset} to {OPSET}: {reason} "
            f"Export it again at opset {OPSET}."
        ) from None
    model.graph = ir.from_proto(converted).graph
