"""Write an integer graph in operators of the ONNX standard alone."""

from __future__ import annotations

__all__ = ["WriteStandardPass"]

import onnx_ir as ir

from .. import arithmetic
from ..errors import PassError
from ..values import array, gathered_names, int_attribute
from . import contrib
from .build import CONTRIB
from .carriers import Carrier, Uint8Carrier, install, note_weight, parameters, side


class WriteStandardPass(ir.passes.InPlacePass):
    """Replace operators of domain com.microsoft with operators of the standard that give the same integers.

    ``QGemm`` becomes ``MatMulInteger -> Add(bias) -> Cast -> Mul [-> Round -> QuantizeLinear]``. The others
    become ``DequantizeLinear -> float operator -> Round -> QuantizeLinear``: the formulas of
    ``passes/arithmetic.py``, one operator a step.

    Left alone: what is of the standard already.

    Raises:
        PassError: An operator of that domain has no such form.
    """

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        graph = model.graph
        nodes = [node for node in graph if node.domain == CONTRIB]
        with gathered_names(graph):
            for node in nodes:
                _write(graph, node)
        return ir.passes.PassResult(model, modified=bool(nodes))


def _write(graph: ir.Graph, node: ir.Node) -> None:
    form, steps = _FORMS.get(node.op_type), Uint8Carrier(graph, node)
    result = form(steps, node) if form is not None else None
    if result is None:
        raise PassError(
            f"Cannot write {node.op_type} {node.name!r} in operators of the standard, allowed: "
            f"{', '.join(sorted(_FORMS))} with constant scales. Lower with --target cpu."
        )
    install(steps, result)


def _gemm(steps: Carrier, node: ir.Node) -> ir.Value | None:
    """``float32(acc) * multiplier``, and to codes unless it is a real result."""
    x, scale = side(node, 0), array(node.inputs[4])
    weight, x_zero, w_zero = node.inputs[3], node.inputs[2], node.inputs[5]
    if x is None or scale is None or int_attribute(node, "transB", 0) != 1:
        return None
    assert weight is not None
    assert weight.dtype is not None  # codes are int8 or uint8
    assert x_zero is not None
    assert w_zero is not None
    columns = steps("Transpose", weight, dtype=weight.dtype, perm=[1, 0])
    columns.shape = None if weight.shape is None else ir.Shape(list(weight.shape)[::-1])
    note_weight(steps.nodes[-1], node)
    int32 = ir.DataType.INT32
    acc = steps("MatMulInteger", x.value, columns, x_zero, w_zero, dtype=int32)
    note_weight(steps.nodes[-1], node)
    bias = node.inputs[6] if len(node.inputs) > 6 else None
    if bias is not None:
        acc = steps("Add", acc, bias, dtype=int32)
    real, y = steps.cast(acc, ir.DataType.FLOAT), parameters(node, 7)
    if y is None:
        return steps("Mul", real, steps.own("factor", x.scale * scale))
    factor = steps.own("factor", arithmetic.multiplier(x.scale, scale, y[0]))
    return steps.codes(steps("Mul", real, factor), y[1])


_FORMS: dict[str, contrib.Form] = {**contrib.FORMS, "QGemm": _gemm}
