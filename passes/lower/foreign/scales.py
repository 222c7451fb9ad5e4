"""Raise weight scales that are too small for a bias in int32."""

from __future__ import annotations

__all__ = ["RaiseDeadScalesPass"]

import logging

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from ... import arithmetic
from ...constants import constant
from ...values import array, is_op
from ..match import Weight, dequantized, dequantized_weight
from .layers import real_constant

logger = logging.getLogger(__name__)

_LARGEST_BIAS = 2.0**30


class RaiseDeadScalesPass(ir.passes.InPlacePass):
    """Raise the scale of a kernel whose bias is beyond int32 in steps of ``s_x * s_w``.

    Before: ``s_w = 1e-10``, a bias of 2.5    After: ``s_w = 2.5 / (s_x * 2**30)``, the codes rounded anew

    Only a nearly dead kernel has such a scale: its weights are far below the raised scale, and so is what
    they add. ``quantize.raise_dead_scales`` does this for a plan. A scale of 0 becomes one that adds nothing.

    Left alone: biases that fit, and weights that anything else than a Conv or Gemm uses.
    """

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        layers = [node for node in model.graph if is_op(node, "Conv", "Gemm") and len(node.inputs) > 2]
        used = {node.inputs[1]: None for node in layers}
        raised = sum(_raise(model.graph, value) for value in used if value is not None)
        if raised:
            logger.info("Raised the scales of %d weights", raised)
        return ir.passes.PassResult(model, modified=bool(raised))


def _raise(graph: ir.Graph, value: ir.Value) -> bool:
    weight, node = dequantized_weight(value), value.producer()
    users = [use.node for use in value.uses() if use.idx == 1 and is_op(use.node, "Conv", "Gemm")]
    if weight is None or node is None or len(users) != len(value.uses()):
        return False
    least, is_dead = np.zeros(len(weight.codes)), np.zeros(len(weight.codes), bool)
    for user in users:
        x, bias = dequantized(user.inputs[0]), real_constant(user.inputs[2] if len(user.inputs) > 2 else None)
        if x is None or bias is None or bias.size not in (1, len(least)):
            continue
        unit, real = np.abs(x.scale * weight.scale), np.abs(bias.reshape(-1).astype(np.float64))
        is_dead |= (real > unit.astype(np.float64) * np.iinfo(np.int32).max) | (unit == 0)
        least = np.maximum(least, real / (np.float64(x.scale) * _LARGEST_BIAS))
    if not is_dead.any():
        return False
    least = np.maximum(least, np.where(weight.scale == 0, arithmetic.NOTHING, 0))
    scale = np.where(is_dead, least, weight.scale).astype(np.float32)
    _store(graph, node, weight, scale)
    return True


def _store(graph: ir.Graph, node: ir.Node, weight: Weight, scale: NDArray[np.float32]) -> None:
    """Give a weight these scales, and the nearest codes."""
    column = (-1, *[1] * (weight.codes.ndim - 1))
    ratio = (weight.scale.astype(np.float64) / scale).reshape(column)
    held = array(node.inputs[0])
    assert held is not None  # it is that of a weight
    zero = np.zeros((), held.dtype) if weight.zero_point is None else weight.zero_point
    zero = np.broadcast_to(zero, len(scale))
    codes = (np.rint(weight.codes * ratio) + zero.reshape(column)).astype(held.dtype)
    name = str(node.outputs[0].name)
    numbers = {"codes": codes, "scale": scale, "zero_point": np.ascontiguousarray(zero)}
    new = [constant(graph, f"{name}.raised_{label}", stored) for label, stored in numbers.items()]
    node.resize_inputs(3)
    for index, stored in enumerate(new):
        node.replace_input_with(index, stored)
    node.attributes["axis"] = ir.AttrInt64("axis", 0)
