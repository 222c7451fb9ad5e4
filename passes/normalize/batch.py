"""Free a model from the batch size it was exported with."""

from __future__ import annotations

__all__ = ["FreeBatchSizePass"]

import logging

import numpy as np
import onnx_ir as ir

from ..values import add_initializer, array, is_op

logger = logging.getLogger(__name__)

SYMBOL = "batch"


class FreeBatchSizePass(ir.passes.InPlacePass):
    """Give the first dimension of every input the name ``batch`` where all of them fix the same number.

    Before: ``x[1,3,8,8] -> Reshape(x, [1,8,-1])``
    After:  ``x[batch,3,8,8] -> Reshape(x, [0,8,-1])``, where 0 means "as before"

    Shapes inferred from the old number are dropped; run shape inference again behind this pass. A
    Reshape whose target does not begin with that number is kept as it is.

    The model is left alone if an input has no shape, no dimensions or a free first dimension, or if two
    inputs differ in it.
    """

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        inputs = [value for value in model.graph.inputs if not value.is_initializer()]
        sizes = {_first(value) for value in inputs}
        size = sizes.pop() if len(sizes) == 1 else None
        if size is None:
            return ir.passes.PassResult(model, modified=False)
        for node in model.graph:
            if is_op(node, "Reshape"):
                _free_target(node, size)
        for value in inputs:
            assert value.shape is not None  # it has a first size
            value.shape = ir.Shape([SYMBOL, *value.shape[1:]])
        for node in model.graph:
            for output in node.outputs:
                output.shape = None
        logger.info("Freed the batch size, which was fixed to %d", size)
        return ir.passes.PassResult(model, modified=True)


def _first(value: ir.Value) -> int | None:
    """The first size, if it is a number."""
    if value.shape is None or len(value.shape) == 0:
        return None
    size = value.shape[0]
    return size if isinstance(size, int) else None


def _free_target(node: ir.Node, size: int) -> None:
    """Let a constant target that begins with the batch size keep that dimension whatever it is."""
    x, target = node.inputs[0], array(node.inputs[1])
    if x is None or target is None or target.size == 0 or target[0] != size or _first(x) != size:
        return
    if 0 in target:  # with allowzero it means a size of 0, and cannot be said beside "as before"
        return
    node.attributes.pop("allowzero", None)
    graph = node.graph
    assert isinstance(graph, ir.Graph)  # the caller iterates over one
    freed = np.array([0, *target[1:]], np.int64)
    node.replace_input_with(1, add_initializer(graph, f"{node.outputs[0].name}.shape", freed))
