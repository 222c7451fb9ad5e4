"""Recognize Gelu."""

from __future__ import annotations

__all__ = ["FuseGeluPass"]

import logging
import math

import onnx_ir as ir

from ..values import is_op
from .build import replace_node
from .ramp import close, gated, polynomial, ramps

logger = logging.getLogger(__name__)


class FuseGeluPass(ir.passes.InPlacePass):
    """Replace the spellings of Gelu by this operator.

    Before: ``d = Div(x, 1.414214)  e = Erf(d)  a = Add(e, 1)  m = Mul(x, a)  y = Mul(m, 0.5)``
    After:  ``y = Gelu(x)``

    1. ``x / 2 * (1 + erf(x / sqrt(2)))`` is Gelu.
    2. ``x / 2 * (1 + tanh(sqrt(2 / pi) * (x + 0.044715 * x**3)))`` is ``Gelu<approximate="tanh">``.

    In every order and association. Constants may be off by 2e-6 of their size, so that results differ by
    that, and by the rounding of float32. Left alone: other constants, and arrays in their place.
    """

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        fused = sum(_fuse(node, self) for node in model.graph if is_op(node, "Mul", "Div"))
        if fused:
            logger.info("Recognized %d Gelu", fused)
        return ir.passes.PassResult(model, modified=bool(fused))


def _fuse(node: ir.Node, pass_: ir.passes.PassBase) -> bool:
    for x, gate, number in gated(node):
        mode = _gate(gate, x, number)
        if mode is not None:
            attributes = {} if mode == "none" else {"approximate": mode}
            replace_node(node, ir.node("Gelu", [x], attributes, name=node.name), pass_)
            return True
    return False


def _gate(value: ir.Value, x: ir.Value, number: float) -> str | None:
    """The value of ``approximate`` if ``number * value`` is the distribution function that Gelu has."""
    for ramp in ramps(value):
        half = ramp.times(number)
        if (
            half.high == math.inf
            and half.low == -math.inf
            and close(half.offset, 0.5)
            and close(half.slope, 0.5)
        ):
            node = half.source.producer()
            inner = node.inputs[0] if node is not None and node.inputs else None
            if inner is not None and is_op(node, "Erf") and _is_polynomial(inner, x, {1: math.sqrt(0.5)}):
                return "none"
            root = math.sqrt(2 / math.pi)
            if (
                inner is not None
                and is_op(node, "Tanh")
                and _is_polynomial(inner, x, {1: root, 3: root * 0.044715})
            ):
                return "tanh"
    return None


def _is_polynomial(value: ir.Value, x: ir.Value, wanted: dict[int, float]) -> bool:
    found = polynomial(value, x)
    return found is not None and all(close(found.get(p, 0.0), wanted.get(p, 0.0)) for p in {*found, *wanted})
