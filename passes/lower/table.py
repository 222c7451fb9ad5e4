"""Lower functions of one number to tables of codes."""

from __future__ import annotations

__all__ = ["LowerTablePass"]

import logging

import numpy as np
import onnx_ir as ir

from .. import arithmetic, functions
from ..constants import constant
from ..placement import is_table
from .build import CONTRIB, params, refuse, replace
from .match import Codes, Requantization, dequantized, requantization
from .written_out import WrittenOut

logger = logging.getLogger(__name__)

_LOGISTIC_ERROR = 5e-7
"""Of a sigmoid in float32, absolute. That of ONNX Runtime is off by 1.7e-7 at most, in 12 million points."""
_DIVISION_ERROR = 2.0**-14
"""Of ``y / s_y`` in codes: up to 256 of them, to the last bits of a float32."""


class LowerTablePass(ir.passes.InPlacePass):
    """Replace ``DQ(x) -> f -> (Relu | Clip)* -> Q [-> Clip]`` with what gives the same integers.

    ``codes = table[x]``, ``table[i] = quantize(f(dequantize(i)))``, for the operators of
    ``placement.TABLES``. By operator, the fastest way to that:

    1. LeakyRelu: QLinearLeakyRelu, in which each step is one IEEE operation.
    2. Sigmoid: QLinearSigmoid, where every code is so far from a rounding boundary that the error of a
       float32 sigmoid does not matter.
    3. HardSwish, where real 3 is a whole number of codes (``functions.hard_swish_reach``): QLinearMul of
       the codes and the clamped codes. The codes are those of this product by definition.
    4. All others, and Sigmoid elsewhere: Reshape, Cast, GatherElements, Cast, Reshape. A table of int32
       with a Cast to uint8 behind it is a fifth faster than one of uint8.

    Left alone: an input that is not quantized, and a result that is not only quantized.
    """

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        nodes = [node for node in model.graph if is_table(node)]
        done = sum(_lower(model.graph, node) for node in nodes)
        if done:
            logger.info("Lowered %d of %d functions of one number", done, len(nodes))
        return ir.passes.PassResult(model, modified=bool(done))


def _lower(graph: ir.Graph, node: ir.Node) -> bool:
    x = dequantized(node.inputs[0])
    if x is None:
        return refuse(node, "its input is not quantized")
    end = requantization(node, with_offset=True)
    if end is None:
        return refuse(node, "its result is used before it is quantized")
    op_type = node.op_type
    reach = functions.hard_swish_reach(float(x.scale), x.zero_point) if op_type == "HardSwish" else None
    if end.offset:  # which a table can take off, and no operator of ONNX Runtime
        reach = None
    if reach is not None:
        return replace(node, end, _product(graph, node, x, end, reach))
    attributes = {name: attribute.value for name, attribute in node.attributes.items()}
    reals = functions.outputs(op_type, float(x.scale), x.zero_point, **attributes)
    single = op_type == "LeakyRelu" or (op_type == "Sigmoid" and _is_clear(x, reals, end.scale))
    if single and not end.offset:
        inputs = [x.value, *params(graph, x), *params(graph, end)]
        made = ir.node(f"QLinear{op_type}", inputs, dict(node.attributes), domain=CONTRIB, name=node.name)
        return replace(node, end, [made])
    table = arithmetic.quantize(reals, end.scale, end.zero_point, end.low, end.high, offset=end.offset)
    written = WrittenOut(graph, node)
    held = constant(graph, f"{node.outputs[0].name}.table", table.astype(np.int32))
    found = written.cast("narrow", written.look_up(x.value, held, x.value), ir.DataType.UINT8)
    written.reshape(found, x.value)
    return replace(node, end, written.nodes, clamped=True)


def _is_clear(x: Codes, reals: arithmetic.Float, scale: np.float32) -> bool:
    """Whether the error of a float32 sigmoid makes no value another code; that of 0 is 1/2 without one."""
    inexact = np.delete(reals[: x.high + 1], x.zero_point).astype(np.float64)
    over_scale = inexact / float(scale)
    to_boundary = np.abs(over_scale - np.floor(over_scale) - 0.5)
    return bool(to_boundary.min() > _LOGISTIC_ERROR / float(scale) + _DIVISION_ERROR)


def _product(graph: ir.Graph, node: ir.Node, x: Codes, end: Requantization, reach: int) -> list[ir.Node]:
    """HardSwish as ``x * relu6(x + 3)`` in steps of ``s_x * s_x / 6``."""
    zero = x.zero_point - reach
    low = constant(graph, f"code{zero}", np.uint8(zero))
    most = min(x.zero_point + reach, 255)
    high = constant(graph, f"code{most}", np.uint8(most))
    written = WrittenOut(graph, node)
    gate = written.add("Clip", "gate", [x.value, low, high], ir.DataType.UINT8)
    sixth = constant(graph, f"{x.name}.scale_6", functions.hard_swish_gate_scale(float(x.scale)))
    inputs = [x.value, *params(graph, x), gate, sixth, low, *params(graph, end)]
    return [*written.nodes, ir.node("QLinearMul", inputs, domain=CONTRIB, name=node.name)]
