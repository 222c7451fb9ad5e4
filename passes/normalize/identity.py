"""Take out nodes that give what they get."""

from __future__ import annotations

__all__ = ["EliminateIdentityPass"]

import logging

import onnx_ir as ir

from ..values import is_op

logger = logging.getLogger(__name__)


class EliminateIdentityPass(ir.passes.InPlacePass):
    """Remove Identity; what used its output uses its input.

    Before: ``t = Identity(x)  y = Relu(t)``    After: ``y = Relu(x)``

    A graph output keeps its name: the value that takes its place is called so. Exact.

    Left alone: the Identity between two graph inputs, initializers or outputs and a graph output, which has
    no other spelling; and those inside the branches of If and the bodies of loops, where the output may be
    the branch's own while the input is from outside. (onnx_ir's pass of this name takes those too, and
    breaks the graph.)
    """

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        removed = sum(_remove(node) for node in model.graph if is_op(node, "Identity"))
        if removed:
            logger.info("Removed %d Identity nodes", removed)
        return ir.passes.PassResult(model, modified=bool(removed))


def _remove(node: ir.Node) -> bool:
    x, y = node.inputs[0], node.outputs[0]
    assert x is not None  # the schema
    assert isinstance(node.graph, ir.Graph)  # the caller iterates over one
    name, is_output = y.name, y.is_graph_output()
    if is_output and (x.is_graph_input() or x.is_initializer() or x.is_graph_output()):
        return False
    x.shape, x.type = x.shape or y.shape, x.type or y.type
    y.replace_all_uses_with(x, replace_graph_outputs=True)
    node.graph.remove(node, safe=True)
    if is_output:
        y.name, x.name = None, name
    return True
