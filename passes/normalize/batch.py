"""Free a model from the batch size it was exported with."""

from __future__ import annotations

__all__ = ["FreeBatchSizePass"]

import logging
from collections.abc import Iterator

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from ..values import add_initializer, array, gathered_names, is_op, numbered
from .infer import InferShapesPass

logger = logging.getLogger(__name__)

_SYMBOL = "batch"


class FreeBatchSizePass(ir.passes.InPlacePass):
    """Give the first dimension of every input the name ``batch`` where all of them fix the same number.

    Before: ``x[1,3,8,8] -> Reshape(x, {1, 8, -1})``
    After:  ``x[batch,3,8,8] -> Reshape(x, {0, 8, -1})``, where 0 means "as before"

    ``Expand(x, {n, ...})`` becomes ``Expand(x, {1, ...})``, and a Resize to constant sizes leaves the first
    axis out, where the first size of ``x`` is that number, subgraphs included. If the model has a symbol
    ``batch``, the name is ``batch_1``. Shapes inferred from the old number are dropped; run shape inference
    again behind this pass.

    The model is left alone if an input has no shape, no dimensions or a free first dimension, if two inputs
    differ in it, and if it holds the number elsewhere: then, by shape inference, an output that had it
    first still has a number there, or a Reshape gives a fixed number of elements to a free one. (Where
    inference cannot tell, as behind Resize, the output counts as free.)
    """

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        sizes = {_first(value) for value in _fed(model)}
        size = sizes.pop() if len(sizes) == 1 else None
        if size is None:
            return ir.passes.PassResult(model, modified=False)
        symbol = _unused_symbol(model)
        trial = model.clone()
        _free(trial, size, symbol)
        InferShapesPass()(trial)
        holder = _holder(model, trial, size, symbol)
        if holder is not None:
            logger.info("Kept the batch size %d: the model fixes it at %s too", size, holder)
            return ir.passes.PassResult(model, modified=False)
        _free(model, size, symbol)
        logger.info("Freed the batch size, which was fixed to %d", size)
        return ir.passes.PassResult(model, modified=True)


def _fed(model: ir.Model) -> list[ir.Value]:
    return [value for value in model.graph.inputs if not value.is_initializer()]


def _first(value: ir.Value | None) -> int | None:
    """The first size, if it is a number."""
    if value is None or value.shape is None or len(value.shape) == 0:
        return None
    size = value.shape[0]
    return size if isinstance(size, int) else None


def _unused_symbol(model: ir.Model) -> str:
    taken = {str(size) for value in _values(model) if value.shape is not None for size in value.shape}
    return next(name for name in numbered(_SYMBOL) if name not in taken)


def _values(model: ir.Model) -> Iterator[ir.Value]:
    for graph in model.graphs():
        yield from graph.inputs
        for node in graph:
            yield from node.outputs


def _free(model: ir.Model, size: int, symbol: str) -> None:
    with gathered_names(model.graph):
        for node in list(ir.traversal.RecursiveGraphIterator(model.graph)):
            _free_node(node, size)
    fed = _fed(model)
    for value in _values(model):
        if value not in fed:
            value.shape = None
    for value in fed:
        assert value.shape is not None  # it has a first size
        value.shape = ir.Shape([symbol, *value.shape[1:]])


def _free_node(node: ir.Node, size: int) -> None:
    """Let a constant target that begins with the batch size keep that dimension whatever it is."""
    place = 3 if is_op(node, "Resize") else 1
    if not is_op(node, "Expand", "Reshape", "Resize") or len(node.inputs) <= place:
        return
    x, target = node.inputs[0], array(node.inputs[place])
    if x is None or x.shape is None or _first(x) != size or target is None or target.ndim != 1:
        return
    if not target.size or target[0] != size:
        return
    freed: NDArray[np.int64] | None = None
    if is_op(node, "Reshape"):
        if 0 not in target:  # with allowzero it means a size of 0, and cannot be said beside "as before"
            node.attributes.pop("allowzero", None)
            freed = np.array([0, *target[1:]], np.int64)
    elif len(target) == len(x.shape):
        if is_op(node, "Expand"):
            freed = np.array([1, *target[1:]], np.int64)
        elif not {"axes", "keep_aspect_ratio_policy"} & set(node.attributes) and node.inputs[1] is None:
            node.attributes["axes"] = ir.AttrInt64s("axes", [*range(1, len(target))])
            freed = np.array(target[1:], np.int64)
    if freed is not None:
        name, graph = f"{node.outputs[0].name}.shape", node.graph
        assert isinstance(graph, ir.Graph)  # of the model or of a branch; shape inference looks no further
        node.replace_input_with(place, add_initializer(graph, name, freed))


def _holder(model: ir.Model, trial: ir.Model, size: int, symbol: str) -> str | None:
    """The name of a value that still has the old number, or not a batch size that is free; None if all have.

    Args:
        model: As it was.
        trial: The same, freed, with new shapes.
        size: The number.
        symbol: Its name.
    """
    for old, new in zip(model.graph.outputs, trial.graph.outputs, strict=True):
        if _first(old) == size and _first(new) is not None:
            return repr(new.name)
    for node in ir.traversal.RecursiveGraphIterator(trial.graph):
        x, target = (node.inputs[0], array(node.inputs[1])) if is_op(node, "Reshape") else (None, None)
        if x is None or x.shape is None or target is None or (target <= 0).any():
            continue
        if symbol in map(str, x.shape):
            return repr(node.outputs[0].name)
    return None
