"""Merge transposes that follow each other."""

from __future__ import annotations

__all__ = ["MergeTransposePass"]

import logging

import onnx_ir as ir

from ..values import bypass, is_op

logger = logging.getLogger(__name__)


class MergeTransposePass(ir.passes.InPlacePass):
    """Merge two Transpose nodes into one, and remove one that changes nothing.

    Before: ``a = Transpose<perm=[0,3,1,2]>(x)  y = Transpose<perm=[0,2,3,1]>(a)``    After: ``x``
    Before: ``a = Transpose<perm=[0,2,1]>(x)  y = Transpose<perm=[2,1,0]>(a)``
    After:  ``y = Transpose<perm=[1,2,0]>(x)``

    Converters from Keras write such pairs around each layer. Exact. Left alone: a Transpose without
    ``perm``, which turns all axes around, and one that changes nothing between a graph input or another
    graph output and a graph output.
    """

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        changed = sum(_merge(node) + _remove(node) for node in model.graph if is_op(node, "Transpose"))
        if changed:
            logger.info("Merged or removed %d Transpose nodes", changed)
        return ir.passes.PassResult(model, modified=bool(changed))


def _merge(node: ir.Node) -> bool:
    first = node.inputs[0].producer() if node.inputs[0] is not None else None
    if first is None or not is_op(first, "Transpose"):
        return False
    inner, outer = _permutation(first), _permutation(node)
    if inner is None or outer is None:
        return False
    node.replace_input_with(0, first.inputs[0])
    node.attributes["perm"] = ir.AttrInt64s("perm", [inner[axis] for axis in outer])
    return True


def _remove(node: ir.Node) -> bool:
    x, order = node.inputs[0], _permutation(node)
    return x is not None and order is not None and order == sorted(order) and bypass(node)


def _permutation(node: ir.Node) -> list[int] | None:
    return list(node.attributes["perm"].as_ints()) if "perm" in node.attributes else None
