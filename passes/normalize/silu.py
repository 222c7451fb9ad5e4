"""Recognize products of a value and its own gate: SiLU and Mish."""

from __future__ import annotations

__all__ = ["SILU", "FuseSiluPass"]

import logging

import onnx_ir as ir

from ..metadata import DOMAIN
from ..values import is_op
from .build import replace_node
from .ramp import ramps

logger = logging.getLogger(__name__)

SILU = "Silu"


class FuseSiluPass(ir.passes.InPlacePass):
    """Give ``x * sigmoid(x)`` and ``x * tanh(softplus(x))`` one node each.

    Before: ``s = Sigmoid(x)  y = Mul(x, s)``                    After: ``y = mpqtool.Silu(x)``
    Before: ``s = Softplus(x)  t = Tanh(s)  y = Mul(x, t)``      After: ``y = Mish(x)``

    ONNX has no SiLU at opset 21, so the model gets a function of the domain ``mpqtool`` whose body is the
    two nodes: every runtime executes it, and InlinePass undoes it. Exact for SiLU; Mish may be rounded in
    another way. Inside the gate, ``x`` may be times 1, as paddle writes it. Left alone: a product with the
    gate of another value.
    """

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        silu = sum(_fuse_silu(node, self) for node in model.graph if is_op(node, "Mul"))
        mish = sum(_fuse_mish(node, self) for node in model.graph if is_op(node, "Mul"))
        if silu and (DOMAIN, SILU, "") not in model.functions:
            function = _function(model.graph.opset_imports[""])
            model.functions[function.identifier()] = function
            model.graph.opset_imports[DOMAIN] = 1
        if silu or mish:
            logger.info("Recognized %d SiLU and %d Mish", silu, mish)
        return ir.passes.PassResult(model, modified=bool(silu or mish))


def _function(opset: int) -> ir.Function:
    x = ir.Value(name="x")
    gate = ir.node("Sigmoid", [x], name="Sigmoid")
    product = ir.node("Mul", [x, gate.outputs[0]], name="Mul")
    gate.outputs[0].name, product.outputs[0].name = "gate", "y"
    body = ir.Graph([x], [product.outputs[0]], nodes=[gate, product], opset_imports={"": opset}, name=SILU)
    return ir.Function(DOMAIN, SILU, graph=body, attributes=[])


def _fuse_silu(node: ir.Node, pass_: ir.passes.PassBase) -> bool:
    x = _gated(node, "Sigmoid")
    if x is None:
        return False
    # Not the name of the Mul: it would be lost when the function is inlined and found again.
    replace_node(node, ir.node(SILU, [x], domain=DOMAIN, name=node.outputs[0].name), pass_)
    return True


def _fuse_mish(node: ir.Node, pass_: ir.passes.PassBase) -> bool:
    x = _gated(node, "Tanh", "Softplus")
    if x is None:
        return False
    replace_node(node, ir.node("Mish", [x], name=node.name), pass_)
    return True


def _gated(product: ir.Node, *gates: str) -> ir.Value | None:
    """``x`` where the other operand is ``gates[0](gates[1](... x))``."""
    for gate, x in (product.inputs, reversed(product.inputs)):
        value = gate
        for op_type in gates:
            node = value.producer() if value is not None else None
            value = node.inputs[0] if node is not None and is_op(node, op_type) else None
        if value is not None and any(r.source is x and r.is_linear and r.slope == 1 for r in ramps(value)):
            return x
    return None
