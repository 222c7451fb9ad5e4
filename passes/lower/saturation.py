"""Keep integer sums from saturating on CPUs without VNNI."""

from __future__ import annotations

__all__ = ["GuardSaturationPass", "saturates"]

import logging

import numpy as np
import onnx_ir as ir

from .. import arithmetic, metadata
from ..constants import constant
from ..values import array
from .build import zero_point

logger = logging.getLogger(__name__)

_MULTIPLY = ("QLinearConv", "QLinearMatMul", "QGemm")
"""Operators with the inputs codes, scale, zero point of both operands, the constant one second."""
_WEIGHT, _ZERO = 3, 5


class GuardSaturationPass(ir.passes.InPlacePass):
    """Store a weight as uint8, with zero point 128, where its int8 codes could saturate.

    CPUs without VNNI add two uint8 x int8 products in int16 before they go on in int32. What the sum is
    does not change: ``sum((x - z_x) * (w + 128 - 128))``. uint8 x uint8 cannot saturate anywhere, and is
    slower everywhere.

    Left alone: weights of which no two products can leave int16 (``arithmetic.pair_saturates``).

    Args:
        vnni: Whether the file is for CPUs with VNNI only. All weights stay int8 then, and the model gets the
            note ``mpqtool.vnni`` if that matters.
    """

    def __init__(self, *, vnni: bool = False) -> None:
        super().__init__()
        self.vnni = vnni

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        risky = [node for node in model.graph if saturates(node)]
        if self.vnni:
            modified = bool(risky) and metadata.VNNI not in model.metadata_props
            if risky:
                model.metadata_props[metadata.VNNI] = metadata.NEEDED
            return ir.passes.PassResult(model, modified=modified)
        for node in risky:
            _store_unsigned(model.graph, node)
        if risky:
            logger.info("Stored the weights of %d layers as uint8, as their sums could saturate", len(risky))
        return ir.passes.PassResult(model, modified=bool(risky))


def saturates(node: ir.Node, x_bits: int | None = None) -> bool:
    """Whether the sums of an integer layer with constant int8 weights could saturate without VNNI.

    Args:
        node: Any node.
        x_bits: Width of its input; None: as noted on the node that makes it, else 8.
    """
    if node.op_type not in _MULTIPLY or len(node.inputs) <= _ZERO:
        return False
    codes = array(node.inputs[_WEIGHT])
    if codes is None or codes.dtype != np.int8:
        return False
    source = node.inputs[0].producer() if node.inputs[0] is not None else None
    if x_bits is None:
        x_bits = int(source.metadata_props.get(metadata.BITS, "8")) if source is not None else 8
    return arithmetic.pair_saturates(codes, (1 << x_bits) - 1)


def _store_unsigned(graph: ir.Graph, node: ir.Node) -> None:
    codes, zero = array(node.inputs[_WEIGHT]), array(node.inputs[_ZERO])
    assert codes is not None  # or it would not saturate
    assert zero is not None  # lowering writes one
    shifted = (codes.astype(np.int16) + 128).astype(np.uint8)
    unsigned = np.uint8(128)
    if zero.ndim:  # QGemm wants as many zero points as scales
        new = constant(graph, f"zero_uint8.{zero.size}", np.full(zero.shape, unsigned))
    else:
        new = zero_point(graph, unsigned)
    weight = node.inputs[_WEIGHT]
    assert weight is not None
    name = str(weight.name).removesuffix(metadata.SUFFIX)
    node.replace_input_with(_WEIGHT, constant(graph, f"{name}.codes_u8", shifted))
    node.replace_input_with(_ZERO, new)
