"""Recognize HardSigmoid and HardSwish."""

from __future__ import annotations

__all__ = ["FuseHardActivationsPass"]

import logging

import onnx_ir as ir

from ..values import is_activation, is_op
from .build import replace_node
from .ramp import Ramp, close, gated, ramps

logger = logging.getLogger(__name__)

_SLOPES = (1 / 6, 0.2)  # of torch and of Keras
_LAST = ("Mul", "Div", "Add", "Sub", "Clip", "Relu", "Min", "Max")  # what such a formula can end in


class FuseHardActivationsPass(ir.passes.InPlacePass):
    """Replace the spellings of HardSwish and HardSigmoid by these operators.

    Before: ``a = Add(x, 3)  c = Clip(a, 0, 6)  m = Mul(x, c)  y = Div(m, 6)``    After: ``y = HardSwish(x)``
    Before: ``a = Add(x, 3)  c = Clip(a, 0, 6)  y = Div(c, 6)``
    After:  ``y = HardSigmoid<alpha=0.1666667, beta=0.5>(x)``

    1. ``x * clip(x / 6 + 1/2, 0, 1)`` is HardSwish, in every order and association, with Add, Sub, Mul,
       Div, Clip, Relu, Min, Max or HardSigmoid.
    2. ``clip(alpha * x + 1/2, 0, 1)`` is HardSigmoid, if ``alpha`` is 1/6 or 0.2, or minus that: any
       other one may have been learned, and an attribute learns nothing.

    With at most 8 nodes, one behind the other. Constants may be off by 2e-6 of their size, so that
    results differ by that, and by the rounding of float32. Left alone: other constants, arrays in their
    place, an ``x`` that is not float, the plain ``Clip(x, 0, 6)``, and what else is made of the values
    between.
    """

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        # The larger formula first: it holds the smaller one.
        fused = sum(_fuse_swish(node, self) for node in model.graph if is_op(node, "Mul", "Div"))
        fused += sum(_fuse_sigmoid(node, self) for node in model.graph if is_op(node, *_LAST))
        if fused:
            logger.info("Recognized %d HardSwish and HardSigmoid", fused)
        return ir.passes.PassResult(model, modified=bool(fused))


def _fuse_swish(node: ir.Node, pass_: ir.passes.PassBase) -> bool:
    for x, gate, number in gated(node):
        for ramp in ramps(gate):
            if ramp.source is x and _is_gate(ramp.times(number), 1 / 6):
                replace_node(node, ir.node("HardSwish", [x], name=node.name), pass_)
                return True
    return False


def _fuse_sigmoid(node: ir.Node, pass_: ir.passes.PassBase) -> bool:
    out = node.outputs[0]
    if not out.uses() and not out.is_graph_output():
        return False  # left over from a HardSwish
    for ramp in reversed([*ramps(out)]):  # the one that takes in most
        if any(_is_gate(ramp, sign * slope) for slope in _SLOPES for sign in (1, -1)):
            attributes = {"alpha": ramp.slope, "beta": 0.5}
            replace_node(node, ir.node("HardSigmoid", [ramp.source], attributes, name=node.name), pass_)
            return True
    return False


def _is_gate(ramp: Ramp, slope: float) -> bool:
    """Whether this is ``clip(slope * x + 1/2, 0, 1)`` for a float ``x``."""
    return (
        ramp.low == 0
        and close(ramp.high, 1)
        and close(ramp.offset, 0.5)
        and close(ramp.slope, slope)
        and is_activation(ramp.source)
    )
