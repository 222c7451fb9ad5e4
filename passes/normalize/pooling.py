"""Give the mean over an image, or over the tokens of a sequence, its own operator."""

from __future__ import annotations

__all__ = ["RewriteReduceMeanPass"]

import logging
from typing import Any

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
    """Replace ReduceMean over all axes but the first and one by GlobalAveragePool.

    Before: ``ReduceMean(x, axes=[2, 3], keepdims=1)``    After: ``GlobalAveragePool(x)``
    Before: ``ReduceMean(x, axes=[2, 3], keepdims=0)``    After: ``Flatten(GlobalAveragePool(x), axis=1)``

    If the axis left is not the second, ``x`` is transposed before, and the result back where its dimensions
    are kept. If ``x`` is itself a Transpose, so that the two together change nothing, what was transposed is
    taken instead.

    Torch exports ``AdaptiveAvgPool2d(1)``, ``x.mean((2, 3))`` and the mean of tokens, ``x.mean(1)``, like
    this. Exact, but for the order of the sum. Left alone: other axes, axes that are not constant, and ``x``
    of unknown rank, a rank below 3 or of integers.
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
    reduced = sorted(int(axis) % rank for axis in axes.ravel())
    kept = [axis for axis in range(rank) if axis not in reduced]
    if len(kept) != 2 or kept[0] != 0:
        return False
    graph, out = node.graph, node.outputs[0]
    assert isinstance(graph, ir.Graph)  # the caller iterates over one
    sizes = [x.shape[0], x.shape[kept[1]], *[1] * (rank - 2)]

    def made(op: str, source: ir.Value, **attributes: Any) -> ir.Value:
        name = unused_name(graph, f"{out.name}.{op.lower()}")
        new = stamp(ir.node(op, [source], attributes, name=name), pass_)
        new.outputs[0].name = name
        graph.insert_before(node, new)
        return new.outputs[0]

    order = [0, kept[1], *reduced]
    source = x
    if order != sorted(order):
        source = _transposed(x, order) or made("Transpose", x, perm=order)
        source.type, source.shape = x.type, ir.Shape([x.shape[axis] for axis in order])
    last = made("GlobalAveragePool", source)
    last.type, last.shape = out.type, ir.Shape(sizes)
    if not int_attribute(node, "keepdims", 1):
        last = made("Flatten", last, axis=1)
    elif order != sorted(order):
        last = made("Transpose", last, perm=[order.index(axis) for axis in range(rank)])
    replace_value(out, last)
    graph.remove(node, safe=True)
    return True


def _transposed(x: ir.Value, order: list[int]) -> ir.Value | None:
    """What ``x`` was before it was transposed, if transposing it in this order gives that again."""
    turn = x.producer()
    if turn is None or not is_op(turn, "Transpose") or "perm" not in turn.attributes:
        return None
    perm = list(turn.attributes["perm"].as_ints())
    return turn.inputs[0] if [perm[axis] for axis in order] == sorted(order) else None
