"""Lower Add of two activations to QLinearAdd, or to an exact elementwise form."""

from __future__ import annotations

__all__ = ["LowerAddPass"]

import numpy as np
import onnx_ir as ir

from .. import metadata
from ..constants import constant
from ..values import unused_name
from .build import CONTRIB, lower_each, params, refuse, replace, shaped
from .match import Codes, Requantization, dequantized, requantization

_EXACT_SPAN = 13
"""Codes differ from a zero point by 9 bits with sign; sums of two, 13 powers of two apart, fit 24 bits."""


class LowerAddPass(ir.passes.InPlacePass):
    """Replace ``DQ(a), DQ(b) -> Add -> (Relu | Clip)* -> Q [-> Clip]`` with integer arithmetic.

    ``codes = clamp(rint((a - z_a) * r_a + (b - z_b) * r_b + z_y))``, ``r = s / s_y``.

    Where both ratios are powers of two every step is exact, so the order does not matter and
    QLinearAdd computes just this. With other ratios QLinearAdd rounds between the steps in an order
    of its own (one code in some 250 is off by one), so the formula is written out in float32
    elementwise operators, each of which IEEE 754 defines to the bit.

    An Add is left alone if an input is not quantized or the sum is not only quantized.
    """

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        return lower_each(model, ["Add"], _lower)


def _lower(graph: ir.Graph, node: ir.Node) -> bool:
    a, b = dequantized(node.inputs[0]), dequantized(node.inputs[1])
    if a is None or b is None:
        return refuse(node, "an input is not quantized")
    end = requantization(node)
    if end is None:
        return refuse(node, "its result is used before it is quantized")
    if _is_exact(a.scale / end.scale, b.scale / end.scale):
        inputs = [a.value, *params(graph, a), b.value, *params(graph, b), *params(graph, end)]
        return replace(node, end, [ir.node("QLinearAdd", inputs, domain=CONTRIB, name=node.name)])
    return replace(node, end, _written_out(graph, node, a, b, end), clamped=True)


def _is_exact(*ratios: np.float32) -> bool:
    mantissas, exponents = np.frexp(np.array(ratios, np.float32))
    powers = [0, *(int(e) - 1 for e in exponents)]
    return bool(np.all(mantissas == 0.5)) and max(powers) - min(powers) <= _EXACT_SPAN


def _written_out(graph: ir.Graph, node: ir.Node, a: Codes, b: Codes, end: Requantization) -> list[ir.Node]:
    nodes: list[ir.Node] = []

    def step(op: str, label: str, inputs: list[ir.Value], **attributes: int) -> ir.Value:
        made = ir.node(op, inputs, attributes, metadata_props={metadata.EXACT: "Add"})
        nodes.append(made)
        dtype = ir.DataType.UINT8 if label == "codes" else ir.DataType.FLOAT
        name = unused_name(graph, f"{node.outputs[0].name}.{label}")
        return shaped(made.outputs[0], name, dtype, end.codes)

    def number(value: float | np.float32) -> ir.Value:
        number = np.float32(value)
        return constant(graph, f"float{number:g}", number)

    def term(label: str, side: Codes) -> ir.Value:
        real = step("Cast", f"{label}.float", [side.value], to=ir.DataType.FLOAT.value)
        if side.zero_point:
            real = step("Sub", f"{label}.sub", [real, number(side.zero_point)])
        if side.scale != end.scale:
            real = step("Mul", f"{label}.mul", [real, number(side.scale / end.scale)])
        return real

    total = step("Add", "sum", [term("left", a), term("right", b)])
    if end.zero_point:
        total = step("Add", "shifted", [total, number(end.zero_point)])
    total = step("Round", "rounded", [total])
    total = step("Clip", "clamped", [total, number(end.low), number(end.high)])
    step("Cast", "codes", [total], to=ir.DataType.UINT8.value)
    return nodes
