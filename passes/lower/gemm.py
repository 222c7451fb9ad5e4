"""Lower Gemm to QGemm."""

from __future__ import annotations

__all__ = ["LowerGemmPass"]

import numpy as np
import onnx_ir as ir

from .. import arithmetic, metadata
from ..constants import constant
from ..values import array, is_canonical_gemm
from .build import CONTRIB, lower_each, params, refuse, replace, shaped, weight_inputs
from .match import (
    Weight,
    accumulator_fault,
    dequantized,
    dequantized_bias,
    dequantized_weight,
    requantization,
)


class LowerGemmPass(ir.passes.InPlacePass):
    """Replace ``DQ(x), DQ(w)[, bias] -> Gemm [-> (Relu | Clip)* -> Q [-> Clip]]`` with QGemm.

    With a Q behind it the result is uint8, as for Conv, offset and all. Without, it is float32,
    ``float32(acc) * float32(s_x * s_w)``, straight from the accumulator: logits lose nothing.

    A Gemm is left alone if its input or weight is not quantized, its bias is computed or
    differs between rows, its accumulator could leave int32, or it is not of the form ``x @ w.T + bias``.
    """

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        return lower_each(model, ["Gemm"], _lower)


def _lower(graph: ir.Graph, node: ir.Node) -> bool:
    x, weight = dequantized(node.inputs[0]), dequantized_weight(node.inputs[1])
    if x is None or weight is None:
        return refuse(node, "its input or weight is not quantized to 8 bits or less")
    if not is_canonical_gemm(node):
        return refuse(node, "it is not x @ w.T + bias")
    inputs: list[ir.Value | None] = [x.value, *params(graph, x), *weight_inputs(graph, weight)]
    inputs[-1] = _one_per_kernel(graph, inputs[-1], len(weight.codes))
    end = requantization(node, with_offset=True)
    bias, bias_name = None, f"{node.outputs[0].name}.bias"
    if len(node.inputs) > 2 and node.inputs[2] is not None:
        bias, bias_name = dequantized_bias(node.inputs[2], x.scale * weight.scale), str(node.inputs[2].name)
        bias = bias[0] if bias is not None and bias.ndim == 2 and len(bias) == 1 else bias
        if bias is None or bias.shape != weight.codes.shape[:1]:
            return refuse(node, "its bias is computed, or not one number per kernel")
    if end is not None and end.offset:
        bias = arithmetic.shift_bias(0 if bias is None else bias, x.scale, weight.scale, end.offset)
    fault = accumulator_fault(x, weight, 0 if bias is None else bias)
    if fault is not None:
        return refuse(node, fault)
    inputs.append(None if bias is None else constant(graph, metadata.codes_name(bias_name), bias))
    if end is None:
        return _lower_to_float(node, inputs, weight)
    gemm = _gemm(node, [*inputs, *params(graph, end)], weight)
    gemm.metadata_props[metadata.BITS] = str(end.bits)
    return replace(node, end, [gemm])


def _one_per_kernel(graph: ir.Graph, zero: ir.Value | None, kernels: int) -> ir.Value:
    """QGemm wants as many zero points as scales."""
    numbers = array(zero)
    assert numbers is not None
    return constant(graph, f"zero_{numbers.dtype}.{kernels}", np.full(kernels, numbers))


def _gemm(node: ir.Node, inputs: list[ir.Value | None], weight: Weight) -> ir.Node:
    return ir.node(
        "QGemm",
        inputs,
        {"transB": 1},
        domain=CONTRIB,
        name=node.name,
        metadata_props={
            metadata.WEIGHT: weight.name,
            metadata.WEIGHT_BITS: metadata.digits(weight.bits),
            metadata.GRID: weight.grid.value,
        },
    )


def _lower_to_float(node: ir.Node, inputs: list[ir.Value | None], weight: Weight) -> bool:
    gemm, old = _gemm(node, inputs, weight), node.outputs[0]
    new = shaped(gemm.outputs[0], str(old.name), ir.DataType.FLOAT, old)
    assert node.graph is not None
    ir.convenience.replace_nodes_and_values(node.graph, node, [node], [gemm], [old], [new])
    return True
