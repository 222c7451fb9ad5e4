"""Lower Conv to QLinearConv."""

from __future__ import annotations

__all__ = ["LowerConvPass"]

import onnx_ir as ir

from .. import arithmetic, metadata
from ..constants import constant
from .build import lower_each, params, refuse, replace, weight_inputs
from .match import accumulator_fault, dequantized, dequantized_bias, dequantized_weight, requantization


class LowerConvPass(ir.passes.InPlacePass):
    """Replace ``DQ(x), DQ(w)[, bias] -> Conv -> (Relu | Clip)* [-> Sub] -> Q [-> Clip]`` with QLinearConv.

    ``codes = clamp(rint(float32(acc) * float32(s_x * s_w / s_y)) + z_y)``; a Relu, an upper bound and
    a width below 8 bits are one Clip of the uint8 codes, left out where uint8 saturates there anyway.
    Padding is the zero point, which is real 0, or the offset of the input. An offset ``r`` of the result is
    taken off in the bias, ``bias - rint(r / (s_x * s_w))``.

    A Conv is left alone if its input or weight is not quantized, the weight is
    scaled along another axis, its bias is computed, its accumulator could leave int32, or its result is not
    only quantized.
    """

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        return lower_each(model, ["Conv"], _lower)


def _lower(graph: ir.Graph, node: ir.Node) -> bool:
    x, weight = dequantized(node.inputs[0]), dequantized_weight(node.inputs[1])
    if x is None or weight is None:
        return refuse(node, "its input or weight is not quantized to 8 bits or less")
    end = requantization(node, with_offset=True)
    if end is None:
        return refuse(node, "its result is used before it is quantized")
    inputs: list[ir.Value] = [x.value, *params(graph, x)]
    inputs += [*weight_inputs(graph, weight), *params(graph, end)]
    bias, bias_name = None, f"{node.outputs[0].name}.bias"
    if len(node.inputs) > 2 and node.inputs[2] is not None:
        bias, bias_name = dequantized_bias(node.inputs[2], x.scale * weight.scale), str(node.inputs[2].name)
        if bias is None:
            return refuse(node, "its bias is computed")
    if end.offset:
        bias = arithmetic.shift_bias(0 if bias is None else bias, x.scale, weight.scale, end.offset)
    fault = accumulator_fault(x, weight, 0 if bias is None else bias)
    if fault is not None:
        return refuse(node, fault)
    if bias is not None:
        inputs.append(constant(graph, metadata.codes_name(bias_name), bias))
    conv = ir.node(
        "QLinearConv",
        inputs,
        dict(node.attributes),
        name=node.name,
        metadata_props={
            metadata.WEIGHT: weight.name,
            metadata.WEIGHT_BITS: metadata.digits(weight.bits),
            metadata.GRID: weight.grid.value,
            metadata.BITS: str(end.bits),
        },
    )
    return replace(node, end, [conv])
