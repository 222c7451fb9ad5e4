"""Lower Add to QLinearAdd, and Add of a constant to an exact elementwise form."""

from __future__ import annotations

__all__ = ["LowerAddPass"]

import numpy as np
import onnx_ir as ir

from .. import arithmetic, metadata
from ..constants import constant
from ..values import array, unused_name
from .build import CONTRIB, lower_each, refuse, replace, shaped
from .match import Codes, Requantization, dequantized, requantization


class LowerAddPass(ir.passes.InPlacePass):
    """Replace ``DQ(a), DQ(b) -> Add -> (Relu | Clip)* -> Q [-> Clip]`` with integer arithmetic.

    Two activations become QLinearAdd, ``clamp(rint((a - z_a) * r_a + (b - z_b) * r_b + z_y))``. Its scales
    are the ratios of ``arithmetic.add_ratios``, and 1: every step is exact with them, so that it does not
    matter in which order the CPU takes them.

    An activation and a float constant ``c`` of any shape become DequantizeLinear, Add and QuantizeLinear,
    ``clamp(rint((a - z_a) * (s_a / s_y) + c / s_y) + z_y)``: the constant keeps its precision, and
    ONNX Runtime has no integer operator to make of the three.

    An Add is left alone if an input is not quantized or the sum is not only quantized.
    """

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        return lower_each(model, ["Add"], _lower)


def _lower(graph: ir.Graph, node: ir.Node) -> bool:
    a, b = (dequantized(value) for value in node.inputs)
    if metadata.EXACT in node.metadata_props:
        return False
    terms = [numbers for value in node.inputs if (numbers := array(value)) is not None]
    end = requantization(node)
    if end is None:
        return refuse(node, "its result is used before it is quantized")
    if a is not None and b is not None:
        return replace(node, end, [_sum(graph, node, a, b, end)])
    x = a or b
    if x is None or not terms or terms[0].dtype != np.float32:
        return refuse(node, "an input is not quantized")
    return replace(node, end, _shifted(graph, node, x, terms[0], end))


def _sum(graph: ir.Graph, node: ir.Node, a: Codes, b: Codes, end: Requantization) -> ir.Node:
    ratios = arithmetic.add_ratios(a.scale, b.scale, end.scale)
    inputs: list[ir.Value] = []
    for side, ratio in zip((a, b), ratios, strict=True):
        inputs += [side.value, _ratio(graph, ratio), _code(graph, side.zero_point)]
    inputs += [_ratio(graph, np.float32(1)), _code(graph, end.zero_point)]
    return ir.node("QLinearAdd", inputs, domain=CONTRIB, name=node.name)


def _shifted(
    graph: ir.Graph, node: ir.Node, x: Codes, term: arithmetic.Float, end: Requantization
) -> list[ir.Node]:
    name = str(node.outputs[0].name)
    inputs = [x.value, _ratio(graph, x.scale / end.scale), _code(graph, x.zero_point)]
    scaled = ir.node("DequantizeLinear", inputs)
    over_scale = constant(graph, f"{name}.term", term / end.scale)
    total = ir.node("Add", [scaled.outputs[0], over_scale])
    inputs = [total.outputs[0], _ratio(graph, np.float32(1)), _code(graph, end.zero_point)]
    for made, label, like in ((scaled, "scaled", x.value), (total, "sum", end.codes)):
        shaped(made.outputs[0], unused_name(graph, f"{name}.{label}"), ir.DataType.FLOAT, like)
        made.metadata_props[metadata.EXACT] = "Add"
    return [scaled, total, ir.node("QuantizeLinear", inputs, metadata_props={metadata.EXACT: "Add"})]


def _ratio(graph: ir.Graph, number: np.float32) -> ir.Value:
    return constant(graph, f"float{number:g}", np.float32(number))


def _code(graph: ir.Graph, zero_point: int) -> ir.Value:
    return constant(graph, f"code{zero_point}", np.uint8(zero_point))
