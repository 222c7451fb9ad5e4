"""Lower Add and Sub to QLinearAdd, and those of a constant to an exact elementwise form."""

from __future__ import annotations

__all__ = ["LowerAddPass"]

import numpy as np
import onnx_ir as ir

from .. import arithmetic, metadata
from ..constants import constant
from ..values import array, unused_name
from .affine import affine
from .build import CONTRIB, lower_each, refuse, replace, shaped
from .match import Codes, Requantization, dequantized, requantization


class LowerAddPass(ir.passes.InPlacePass):
    """Replace ``DQ(a), DQ(b) -> Add | Sub -> (Relu | Clip)* -> Q [-> Clip]`` with integer arithmetic.

    Two activations become QLinearAdd, ``clamp(rint((a - z_a) * r_a + (b - z_b) * r_b + z_y))``. Its scales
    are the ratios of ``arithmetic.add_ratios``, and 1: every step is exact with them, so that it does not
    matter in which order the CPU takes them. Sub has a negative ``r_b``.

    An activation and a float constant ``c`` become ``clamp(rint((a - z_a) * (s_a / s_y) + c / s_y) + z_y)``,
    so that the constant keeps its precision: QLinearAdd, if the constant is one number and no code is near
    to a boundary of rounding (``affine``), else DequantizeLinear, Add and QuantizeLinear, which take five
    times as long, and of which ONNX Runtime makes no integer operator. ``a - c`` adds ``-c``; ``c - a`` is a
    Sub of the same two terms. An offset of the result is taken off the constant.

    An Add or Sub is left alone if an input is not quantized or the sum is not only quantized.
    """

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        return lower_each(model, ["Add", "Sub"], _lower)


def _lower(graph: ir.Graph, node: ir.Node) -> bool:
    a, b = (dequantized(value) for value in node.inputs)
    if metadata.EXACT in node.metadata_props:
        return False
    terms = [numbers for value in node.inputs if (numbers := array(value)) is not None]
    end = requantization(node, with_offset=bool(terms))
    if end is None:
        return refuse(node, "its result is used before it is quantized")
    if a is not None and b is not None:
        return replace(node, end, [_sum(graph, node, a, b, end)])
    x = a or b
    if x is None or not terms or terms[0].dtype != np.float32:
        return refuse(node, "an input is not quantized")
    is_negated = node.op_type == "Sub" and array(node.inputs[0]) is not None
    with np.errstate(over="ignore", invalid="ignore"):  # a mask of the least float32 becomes infinity
        term = (-terms[0] if node.op_type == "Sub" and not is_negated else terms[0]) - end.offset
        nodes = [] if is_negated else _affine(graph, node, x, term, end)
        if nodes:
            return replace(node, end, nodes, clamped=True)
        return replace(node, end, _shifted(graph, node, x, term, end, is_negated=is_negated))


def _sum(graph: ir.Graph, node: ir.Node, a: Codes, b: Codes, end: Requantization) -> ir.Node:
    left, right = arithmetic.add_ratios(a.scale, b.scale, end.scale)
    inputs: list[ir.Value] = []
    for side, ratio in ((a, left), (b, -right if node.op_type == "Sub" else right)):
        inputs += [side.value, _ratio(graph, ratio), _code(graph, side.zero_point)]
    inputs += [_ratio(graph, np.float32(1)), _code(graph, end.zero_point)]
    return ir.node("QLinearAdd", inputs, domain=CONTRIB, name=node.name)


def _affine(
    graph: ir.Graph, node: ir.Node, x: Codes, term: arithmetic.Float, end: Requantization
) -> list[ir.Node]:
    """The sum with one number as QLinearAdd; nothing where it might compute something else."""
    adds_axes = x.value.shape is None or term.ndim > len(x.value.shape)
    if term.size != 1 or (adds_axes and term.ndim):
        return []
    shift = np.float32(term.item())
    table = arithmetic.shift_codes(
        np.arange(256), x.scale, x.zero_point, shift, end.scale, end.zero_point, end.low, end.high
    )
    return affine(graph, node, x, end, x.scale / end.scale, shift / end.scale, table)


def _shifted(
    graph: ir.Graph, node: ir.Node, x: Codes, term: arithmetic.Float, end: Requantization, *, is_negated: bool
) -> list[ir.Node]:
    name = str(node.outputs[0].name)
    inputs = [x.value, _ratio(graph, x.scale / end.scale), _code(graph, x.zero_point)]
    scaled = ir.node("DequantizeLinear", inputs)
    shift = constant(graph, f"{name}.term", term / end.scale)
    if is_negated:
        total = ir.node("Sub", [shift, scaled.outputs[0]])
    else:
        total = ir.node("Add", [scaled.outputs[0], shift])
    inputs = [total.outputs[0], _ratio(graph, np.float32(1)), _code(graph, end.zero_point)]
    for made, label, like in ((scaled, "scaled", x.value), (total, "sum", end.codes)):
        shaped(made.outputs[0], unused_name(graph, f"{name}.{label}"), ir.DataType.FLOAT, like)
        made.metadata_props[metadata.EXACT] = "Add"
    return [scaled, total, ir.node("QuantizeLinear", inputs, metadata_props={metadata.EXACT: "Add"})]


def _ratio(graph: ir.Graph, number: np.float32) -> ir.Value:
    return constant(graph, f"float{number:g}", np.float32(number))


def _code(graph: ir.Graph, zero_point: int) -> ir.Value:
    return constant(graph, f"code{zero_point}", np.uint8(zero_point))
