"""Store the codes of weights as int8 around 0."""

from __future__ import annotations

__all__ = ["CenterWeightsPass"]

import logging

import numpy as np
import onnx_ir as ir

from ... import metadata
from ...constants import constant
from ...plan import Grid
from ...values import array, int_attribute, is_op
from ..match import dequantized
from .constants import WIDTH, along, block_size

logger = logging.getLogger(__name__)

_RANGES = {
    "int8": (-128, 127), "uint8": (0, 255),
    "int4": (-8, 7), "uint4": (0, 15),
    "int2": (-2, 1), "uint2": (0, 3),
}  # fmt: skip


class CenterWeightsPass(ir.passes.InPlacePass):
    """Bring the weights of quantized layers to int8 codes with zero point 0, with their width.

    Before: ``DequantizeLinear (w:uint8, s, 128)``, ``DequantizeLinear (w:int4, s)``
    After:  ``DequantizeLinear (w - 128:int8, s, 0)``, ``DequantizeLinear (w:int8, s, 0)``, noted: 4 bits

    The width is that of the type, or of the Clip that the codes went through: never that of the codes that
    happen to be there. Where ``code - zero point`` does not fit int8, the codes become uint8, which integer
    layers multiply with a zero point.

    Left alone: weights of layers whose input is not quantized, scales of other types than float32 or block by
    block, and codes of more than 8 bits.
    """

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        layers = [node for node in model.graph if is_op(node, "Conv", "Gemm")]
        used = {node.inputs[1]: None for node in layers if dequantized(node.inputs[0]) is not None}
        changed = sum(_center(model.graph, value) for value in used if value is not None)
        if changed:
            logger.info("Centered the codes of %d weights", changed)
        return ir.passes.PassResult(model, modified=bool(changed))


def _center(graph: ir.Graph, weight: ir.Value) -> bool:
    node = weight.producer()
    if node is None or not is_op(node, "DequantizeLinear") or block_size(node):
        return False
    codes, scale = array(node.inputs[0]), array(node.inputs[1])
    zero = array(node.inputs[2]) if len(node.inputs) > 2 else np.zeros((), np.int8)
    if (
        codes is None
        or scale is None
        or zero is None
        or codes.ndim < 2
        or metadata.BITS in node.metadata_props
    ):
        return False
    limits = node.meta.get(WIDTH) or _RANGES.get(codes.dtype.name)
    if limits is None or scale.dtype != np.float32:
        return False
    low, high = limits
    least, most = low - int(zero.astype(np.int32).max()), high - int(zero.astype(np.int32).min())
    axis = int_attribute(node, "axis", 1)
    centered = codes.astype(np.int32) - along(zero.astype(np.int32), codes, axis)
    fits = centered.min(initial=0) >= -128 and centered.max(initial=0) <= 127
    width = min(max((-least - 1).bit_length(), most.bit_length()) + 1, 8)
    if codes.dtype == np.int8 and not np.any(zero) and width == 8:
        return False
    if not fits and codes.dtype == np.uint8:
        return False
    name = str(weight.name)
    if fits:
        stored, offset = centered.astype(np.int8), np.zeros(zero.shape, np.int8)
    else:
        shift = 128 if codes.dtype.name.startswith("int") else 0
        stored = (codes.astype(np.int32) + shift).astype(np.uint8)
        offset = (zero.astype(np.int32) + shift).astype(np.uint8)
    node.replace_input_with(0, constant(graph, metadata.codes_name(name), stored))
    node.replace_input_with(2, constant(graph, f"{name}.zero_point", offset))
    if fits and width < 8:
        node.metadata_props[metadata.BITS] = metadata.digits([width] * len(codes))
        node.metadata_props[metadata.GRID] = Grid.FULL.value
    return True
