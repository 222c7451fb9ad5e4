"""Lower MatMul of two activations to QLinearMatMul."""

from __future__ import annotations

__all__ = ["LowerMatMulPass"]

import onnx_ir as ir

from .build import lower_each, params, refuse, replace
from .match import dequantized, requantization

_LARGEST_ACCUMULATOR = 2**31 - 1


class LowerMatMulPass(ir.passes.InPlacePass):
    """Replace ``DQ(a), DQ(b) -> MatMul -> (Relu | Clip)* -> Q [-> Clip]`` with QLinearMatMul.

    ``codes = clamp(rint(float32(acc) * float32(float32(s_a * s_b) / s_y)) + z_y)``, as for Conv. Both
    operands are uint8, which ONNX Runtime multiplies without saturation on every CPU.

    A MatMul is left alone if an input is not quantized, the result is not only quantized, or so many
    products are summed that an accumulator could leave int32.
    """

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        return lower_each(model, ["MatMul"], _lower)


def _lower(graph: ir.Graph, node: ir.Node) -> bool:
    a, b = (dequantized(value) for value in node.inputs)
    if a is None or b is None:
        return refuse(node, "an input is not quantized")
    end = requantization(node)
    if end is None:
        return refuse(node, "its result is used before it is quantized")
    summed = a.value.shape[-1] if a.value.shape else None
    if isinstance(summed, int) and summed * a.high * b.high > _LARGEST_ACCUMULATOR:
        return refuse(node, f"an accumulator of {summed} products could leave int32")
    inputs = [a.value, *params(graph, a), b.value, *params(graph, b), *params(graph, end)]
    return replace(node, end, [ir.node("QLinearMatMul", inputs, name=node.name)])
