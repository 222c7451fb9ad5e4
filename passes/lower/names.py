"""Name the codes of activations after the values they stand for."""

from __future__ import annotations

__all__ = ["NameCodesPass"]

import itertools

import onnx_ir as ir

from .. import metadata
from ..values import array, names, numbered
from .build import CONTRIB
from .foreign.activations import code_shift, codes_of
from .foreign.pairs import same_grid
from .match import requantization


class NameCodesPass(ir.passes.InPlacePass):
    """Call the codes of the activation ``v`` ``v.codes``, in files of other tools too.

    The name is how the QDQ file, the integer file and a simulation are compared value by value. A value
    that is quantized with another scale, too, has these codes as ``v_1.codes``.

    Left alone: codes that are called so already, constants, graph inputs and outputs, and names that
    are taken.
    """

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        taken = names(model.graph)
        seen: dict[ir.Value, list[ir.Node]] = {}
        renamed = 0
        for node in model.graph:
            source = node.inputs[0] if node.op_type == "QuantizeLinear" else None
            if source is None or node.domain not in ("", CONTRIB) or array(source) is not None:
                continue
            if requantization(node) is None and code_shift(node) is None:
                continue
            others = seen.setdefault(source, [])
            repeated = any(same_grid(node, other) for other in others)
            if repeated:
                continue
            others.append(node)
            codes = codes_of(node)
            which = next(itertools.islice(numbered(str(source.name)), len(others) - 1, None))
            name = metadata.codes_name(which)
            done = str(codes.name).endswith(metadata.SUFFIX) or name in taken
            if not done and not codes.is_graph_output():
                taken.add(name)
                codes.name = name
                renamed += 1
        return ir.passes.PassResult(model, modified=bool(renamed))
