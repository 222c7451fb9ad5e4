"""Bring a softmax over the last axis into one node."""

from __future__ import annotations

__all__ = ["RestoreSoftmaxPass"]

import logging

import onnx_ir as ir

from ..values import int_attribute, is_op
from .build import replace_node

logger = logging.getLogger(__name__)

_OPS = ("Softmax", "LogSoftmax", "Hardmax")


class RestoreSoftmaxPass(ir.passes.InPlacePass):
    """Take away what lets Softmax, LogSoftmax and Hardmax span many axes, where they span one.

    Before: ``f = Flatten<axis=2>(x)  r = Softmax<axis=1>(f)  s = Shape(x)  y = Reshape(r, s)``
    After:  ``y = Softmax<axis=2>(x)``, for ``x[n, m, c]``

    That is how a model of an opset below 13 is said at a later one. Exact. Left alone: more than one axis
    whose size is above 1 or not known, an ``x`` of unknown rank, and a Reshape to another shape.
    """

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        restored = sum(
            _restore(node, self)
            for node in ir.traversal.RecursiveGraphIterator(model.graph)
            if is_op(node, "Reshape")
        )
        if restored:
            logger.info("Brought %d Softmax nodes into one", restored)
        return ir.passes.PassResult(model, modified=bool(restored))


def _restore(reshape: ir.Node, pass_: ir.passes.PassBase) -> bool:
    softmax, shape = (value.producer() if value is not None else None for value in reshape.inputs)
    if softmax is None or shape is None or not is_op(softmax, *_OPS) or not is_op(shape, "Shape"):
        return False
    flatten = softmax.inputs[0].producer() if softmax.inputs[0] is not None else None
    if flatten is None or not is_op(flatten, "Flatten") or int_attribute(softmax, "axis", -1) not in (1, -1):
        return False
    x = flatten.inputs[0]
    if x is None or x.shape is None or shape.inputs[0] is not x or shape.attributes:
        return False
    axis = int_attribute(flatten, "axis", 1) % (len(x.shape) or 1)
    if not len(x.shape) or any(size != 1 for size in x.shape[axis + 1 :]):
        return False
    replace_node(reshape, ir.node(softmax.op_type, [x], {"axis": axis}, name=softmax.name), pass_)
    return True
