"""Free reshapes from the batch size."""

from __future__ import annotations

__all__ = ["CanonicalizeReshapePass"]

import logging
import math

import numpy as np
import onnx_ir as ir

from ..values import (
    add_initializer,
    array,
    gathered_names,
    int_attribute,
    is_op,
    replace_value,
    stamp,
)
from .shape_values import SizeOf, sizes

logger = logging.getLogger(__name__)


class CanonicalizeReshapePass(ir.passes.InPlacePass):
    """Make the target of Reshape constant, and free of the batch size where that can be seen. Exact.

    Before: ``s = Shape(x)  n = Gather(s, {0})  t = Concat(n, {-1})  y = Reshape(x, t)``, ``x[n,3,4]``
    After:  ``y = Flatten<axis=1>(x)``

    1. ``Reshape(x)`` from ``[n, a, b, ...]`` to ``[n, a*b*...]`` becomes ``Flatten(x, axis=1)``, however
       the target is written: ``[n, -1]``, ``[-1, a*b*...]``, or computed from ``Shape``.
    2. A computed target with one unknown size becomes a constant one: that size is ``-1``, or 0, for
       "as before", if it is the first one of ``x`` too.

    Relies on inferred shapes; ``n`` may be a number or a symbol. Left alone: every other Reshape,
    and sizes of 0.
    """

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        reshapes = (node for node in model.graph if is_op(node, "Reshape"))
        with gathered_names(model.graph):
            changed = sum(_flatten(node, self) or _fix_target(node) for node in reshapes)
        if changed:
            logger.info("Rewrote %d Reshape nodes", changed)
        return ir.passes.PassResult(model, modified=bool(changed))


def _flatten(node: ir.Node, pass_: ir.passes.PassBase) -> bool:
    x, out = node.inputs[0], node.outputs[0]
    if x is None or x.shape is None or len(x.shape) < 2:
        return False
    features = [dim for dim in x.shape[1:] if isinstance(dim, int)]
    size = math.prod(features)
    if len(features) != len(x.shape) - 1 or not size or not _has_features(node, size):
        return False
    graph = node.graph
    assert isinstance(graph, ir.Graph)  # the caller iterates over one
    flatten = stamp(ir.node("Flatten", [x], {"axis": 1}, name=node.name), pass_)
    graph.insert_before(node, flatten)
    replace_value(out, flatten.outputs[0])
    graph.remove(node, safe=True)
    return True


def _has_features(node: ir.Node, features: int) -> bool:
    """Whether the result has two dimensions, the second of this size; the first is the batch then."""
    shape = node.outputs[0].shape
    if shape is not None and len(shape) == 2 and shape[1] == features:
        return True
    target = sizes(node.inputs[1])
    if target is None or len(target) != 2:
        return False
    return target[1] == features or (target[1] == -1 and _is_batch(target[0], node.inputs[0]))


def _is_batch(size: int | SizeOf, x: ir.Value | None) -> bool:
    """Whether this is the first dimension of ``x``."""
    if x is None or x.shape is None or isinstance(size, int):
        return False
    if size.value is x:
        return size.axis == 0
    assert size.value.shape is not None  # sizes() takes it from there
    symbol, batch = size.value.shape[size.axis], x.shape[0]
    return isinstance(symbol, ir.SymbolicDim) and symbol.value is not None and symbol == batch


def _fix_target(node: ir.Node) -> bool:
    x, shape, target = node.inputs[0], node.outputs[0].shape, node.inputs[1]
    if array(target) is not None:
        return False
    seen: list[int | SizeOf | ir.SymbolicDim] = [*(sizes(target) or shape or [])]
    unknown = [size for size in seen if not isinstance(size, int)]
    if not seen or len(unknown) > 1 or (0 in seen and (unknown or not int_attribute(node, "allowzero", 0))):
        return False
    replacement = -1
    if -1 in seen and unknown:
        if not isinstance(unknown[0], SizeOf) or seen[0] is not unknown[0] or not _is_batch(unknown[0], x):
            return False
        replacement = 0
    graph = node.graph
    assert isinstance(graph, ir.Graph)  # the caller iterates over one
    if 0 not in seen:
        node.attributes.pop("allowzero", None)
    dims = [size if isinstance(size, int) else replacement for size in seen]
    name = f"{node.outputs[0].name}.shape"
    node.replace_input_with(1, add_initializer(graph, name, np.array(dims, np.int64)))
    return True
