"""Name the codes of activations after the values they stand for."""

from __future__ import annotations

__all__ = ["NameCodesPass"]

import onnx_ir as ir

from .. import metadata
from ..values import array
from .match import requantization


class NameCodesPass(ir.passes.InPlacePass):
    """Call the codes of the activation ``v`` ``v.codes``, in files of other tools too.

    The name is how the QDQ file, the integer file and a simulation are compared value by value.

    Left alone: codes that are called so already, constants, graph inputs and outputs, and names that
    are taken.
    """

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        taken = {value.name for node in model.graph for value in node.outputs}
        taken |= set(model.graph.initializers) | {value.name for value in model.graph.inputs}
        renamed = 0
        for node in model.graph:
            if node.op_identifier() != ("", "QuantizeLinear", "") or array(node.inputs[0]) is not None:
                continue
            end = requantization(node)
            source = node.inputs[0]
            if end is None or source is None or str(end.codes.name).endswith(metadata.SUFFIX):
                continue
            name = metadata.codes_name(str(source.name))
            if name not in taken and not end.codes.is_graph_output():
                taken.add(name)
                end.codes.name = name
                renamed += 1
        return ir.passes.PassResult(model, modified=bool(renamed))
