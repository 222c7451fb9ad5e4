"""Give the mean over an image its own operator."""

from __future__ import annotations

__all__ = ["RewriteReduceMeanPass"]

import logging

import onnx_ir as ir

from ..values import (
    array,
    gathered_names,
    int_attribute,
    is_activation,
    is_op,
    replace_value,
    stamp,
    unused_name,
)

logger = logging.getLogger(__name__)


class RewriteReduceMeanPass(ir.passes.InPlacePass):
    """Replace ReduceMean over all spatial axes by GlobalAveragePool.

    Before: ``ReduceMean(x, axes=[2, 3], keepdims=1)``    After: ``GlobalAveragePool(x)``
    Before: ``ReduceMean(x, axes=[2, 3], keepdims=0)``    After: ``Flatten(GlobalAveragePool(x), axis=1)``

    Torch exports ``AdaptiveAvgPool2d(1)`` and ``x.mean((2, 3))`` like this. Left alone: other axes, axes
    that are not constant, and ``x`` of unknown rank, a rank below 3 or of integers.
    """

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        with gathered_names(model.graph):
            rewritten = sum(_rewrite(node, self) for node in model.graph if is_op(node, "ReduceMean"))
        if rewritten:
            logger.info("Rewrote %d ReduceMean to GlobalAveragePool", rewritten)
        return ir.passes.PassResult(model, modified=bool(rewritten))


def _rewrite(node: ir.Node, pass_: ir.passes.PassBase) -> bool:
    x = node.inputs[0]
    axes = array(node.inputs[1]) if len(node.inputs) > 1 else None
    if x is None or not is_activation(x) or axes is None or x.shape is None or len(x.shape) < 3:
        return False
    rank = len(x.shape)
    if sorted(int(axis) % rank for axis in axes.ravel()) != list(range(2, rank)):
        return False
    graph, out = node.graph, node.outputs[0]
    assert isinstance(graph, ir.Graph)  # the caller iterates over one
    pool = stamp(ir.node("GlobalAveragePool", [x], name=node.name), pass_)
    last = pool
    graph.insert_before(node, pool)
    if not int_attribute(node, "keepdims", 1):
        pooled = pool.outputs[0]
        pooled.name = unused_name(graph, f"{out.name}.pooled")
        pooled.type, pooled.shape = out.type, ir.Shape([*x.shape[:2], *[1] * (rank - 2)])
        last = stamp(ir.node("Flatten", [pooled], {"axis": 1}, name=f"{node.name}.flatten"), pass_)
        graph.insert_before(node, last)
    replace_value(out, last.outputs[0])
    graph.remove(node, safe=True)
    return True
