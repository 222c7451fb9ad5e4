"""Lower functions of one number to tables of codes."""

from __future__ import annotations

__all__ = ["LowerTablePass"]

import logging

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from .. import arithmetic, functions
from ..placement import is_table
from ..values import unused_name
from .affine import affine
from .build import CONTRIB, params, refuse, replace
from .match import Codes, Requantization, dequantized, requantization
from .steps import Steps

logger = logging.getLogger(__name__)

_LOGISTIC_ERROR = 5e-7
"""Of a sigmoid in float32, absolute. That of ONNX Runtime is off by 1.7e-7 at most, in 12 million points."""
_HARD_ERROR = 2.0**-21
"""Of ``clip(alpha * x + beta, 0, 1)`` in float32, absolute, and of ``x`` times that, relative to ``x``."""
_DIVISION_ERROR = 2.0**-14
"""Of ``y / s_y`` in codes: up to 256 of them, to the last bits of a float32."""


class LowerTablePass(ir.passes.InPlacePass):
    """Replace ``DQ(x) -> f -> (Relu | Clip)* -> Q [-> Clip]`` with what gives the same integers.

    ``codes = table[x]``, ``table[i] = quantize(f(dequantize(i)))``, for the operators of
    ``placement.TABLES``. By operator, the fastest way to that:

    1. LeakyRelu: QLinearLeakyRelu, in which each step is one IEEE operation.
    2. Sigmoid: QLinearSigmoid.
    3. HardSwish, where real 3 is a whole number of codes (``functions.hard_swish_reach``): QLinearMul of
       the codes and the clamped codes. The codes are those of this product by definition.
    4. HardSigmoid: a bounded QLinearAdd of one number (``affine``).
    5. HardSwish and HardSigmoid elsewhere: themselves, between DequantizeLinear and QuantizeLinear. That is
       no faster than a table, but stays in the layout of ONNX Runtime's convolutions.
    6. All others: Reshape, Cast, GatherElements, Cast, Reshape. A table of int32 with a Cast to uint8 behind
       it is a fifth faster than one of uint8.

    2, 4 and 5 only where every code is so far from a boundary of rounding that the error of computing in
    float32 does not matter; 6 where it might.

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
    table = arithmetic.quantize(reals, end.scale, end.zero_point, end.low, end.high, offset=end.offset)
    single = op_type == "LeakyRelu" or (
        op_type == "Sigmoid" and _is_clear(x, reals, end.scale, _LOGISTIC_ERROR)
    )
    if single and not end.offset:
        inputs = [x.value, *params(graph, x), *params(graph, end)]
        made = ir.node(f"QLinear{op_type}", inputs, dict(node.attributes), domain=CONTRIB, name=node.name)
        return replace(node, end, [made])
    nodes = _ramp(graph, node, x, end, table) if op_type == "HardSigmoid" else []
    if nodes:
        return replace(node, end, nodes, clamped=True)
    if op_type in ("HardSigmoid", "HardSwish") and not end.offset:
        nodes = _as_it_is(graph, node, x, end, reals)
    if nodes:
        return replace(node, end, nodes)
    steps = Steps(graph, node)
    held = steps.number(f"{node.outputs[0].name}.table", table.astype(np.int32))
    steps.looked_up(x.value, held, x.value, cast=ir.DataType.UINT8)
    return replace(node, end, steps.nodes, clamped=True)


def _is_clear(
    x: Codes, reals: arithmetic.Float, scale: np.float32, error: NDArray[np.float64] | float
) -> bool:
    """Whether an absolute error of a function makes no value another code; that of 0 has none."""
    over_scale = np.delete(reals[: x.high + 1], x.zero_point).astype(np.float64) / float(scale)
    errors = np.delete(np.broadcast_to(error, 256)[: x.high + 1], x.zero_point) / float(scale)
    to_boundary = np.abs(over_scale - np.floor(over_scale) - 0.5)
    return bool((to_boundary > errors + _DIVISION_ERROR).all())


def _ramp(
    graph: ir.Graph, node: ir.Node, x: Codes, end: Requantization, table: NDArray[np.uint8]
) -> list[ir.Node]:
    """HardSigmoid as ``x * alpha + beta`` in codes of the result, bounded by those of 0 and 1."""
    alpha, beta = (np.float32(node.attributes.get_float(*a)) for a in (("alpha", 0.2), ("beta", 0.5)))
    return affine(graph, node, x, end, alpha * x.scale / end.scale, (beta - end.offset) / end.scale, table)


def _as_it_is(
    graph: ir.Graph, node: ir.Node, x: Codes, end: Requantization, reals: arithmetic.Float
) -> list[ir.Node]:
    """The operator itself, in float32; nothing where its error may matter.

    Its result is 0 or 1 exactly where it is bounded, and QuantizeLinear divides, so that a boundary there
    is one of the table as well.
    """
    inputs = np.abs(arithmetic.dequantize(np.arange(256), x.scale, x.zero_point))
    error = _HARD_ERROR * np.maximum(inputs, 1)
    if not _is_clear(x, reals, end.scale, error):
        return []
    steps, real = Steps(graph, node), ir.DataType.FLOAT
    value = steps.add("DequantizeLinear", [x.value, *params(graph, x)], real, label="real", like=x.value)
    attributes = {name: attribute.value for name, attribute in node.attributes.items()}
    value = steps.add(str(node.op_type), [value], real, label="value", like=x.value, **attributes)
    steps.add("QuantizeLinear", [value, *params(graph, end)], ir.DataType.UINT8, label="codes", like=x.value)
    return steps.nodes


def _product(graph: ir.Graph, node: ir.Node, x: Codes, end: Requantization, reach: int) -> list[ir.Node]:
    """HardSwish as ``x * relu6(x + 3)`` in steps of ``s_x * s_x / 6``."""
    steps, zero, gate = Steps(graph, node), x.zero_point - reach, x.value

    def code(number: int) -> ir.Value:
        return steps.number(f"code{number}", np.uint8(number))

    if zero < 0:  # no code: 1 * x + 1 * (reach - z_x), exact, saturates where the Clip does, or behind it
        one = steps.number("float1", np.float32(1))
        inputs = [x.value, one, code(0), code(-zero), one, code(0), one, code(0)]
        raised = ir.node("QLinearAdd", inputs, domain=CONTRIB)
        gate = raised.outputs[0]
        gate.name = raised.name = unused_name(graph, f"{node.outputs[0].name}.raised")
        gate.type, gate.shape = ir.TensorType(ir.DataType.UINT8), x.value.shape
        steps.nodes.append(raised)
        zero = 0
    bounds = [code(zero), code(min(zero + 2 * reach, 255))]
    gate = steps.add("Clip", [gate, *bounds], ir.DataType.UINT8, label="gate", like=x.value)
    sixth = steps.number(f"{x.name}.scale_6", functions.hard_swish_gate_scale(float(x.scale)))
    inputs = [x.value, *params(graph, x), gate, sixth, bounds[0], *params(graph, end)]
    return [*steps.nodes, ir.node("QLinearMul", inputs, domain=CONTRIB, name=node.name)]
