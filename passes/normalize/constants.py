"""Compute what does not depend on an input."""

from __future__ import annotations

__all__ = ["FoldConstantsPass"]

import math
import re
from collections.abc import Iterator

import onnx_ir as ir
from onnxscript import optimizer

from ..values import array, int_attribute, is_op, only_user
from .infer import LARGEST, range_length

_NO_LIMIT = 2**31
_SHAPE_OPS = ("CastLike", "ConstantOfShape", "Expand", "Range", "Shape", "Size")
_UNKNOWN = re.compile("None|unk__")  # as onnx names a size that it does not know
_COPIES = ("Expand", "Tile")
_MOVES = ("Cast", "Reshape", "Squeeze", "Transpose", "Unsqueeze")  # ... their numbers, and change none


class FoldConstantsPass(ir.passes.InPlacePass):
    """Compute every node whose inputs are all constant, with onnxscript's folder.

    The folder also removes Dropout in inference mode, casts and reshapes that change nothing, and takes
    the branch of an If whose condition is constant. It looks at no BatchNormalization, merges no equal
    tensors. A float array that Cast, Reshape, Squeeze, Transpose or Unsqueeze bring into another form
    keeps its name, if nothing else uses it: it is the same parameter.

    Before: ``If(k) <then_branch = {t = Relu(x)}, else_branch = {e = Abs(x)}>`` with ``k`` true
    After:  ``y = Relu(x)``

    Left alone: QuantizeLinear and DequantizeLinear; the Transpose between a matrix and its MatMul or
    Gemm, which CanonicalizeGemmPass takes in, or a graph output;
    Expand and Tile of float arrays, whose copies would no longer be trained as one; results of more than
    a million elements that are larger than what they are made of; and Loop and Scan.
    """

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        kept = [node for node in ir.traversal.RecursiveGraphIterator(model.graph) if _wraps(node)]
        for node in kept:
            node.op_type, like = "Cast", node.inputs[1]
            assert like is not None  # its type is known
            assert like.dtype is not None
            node.resize_inputs(1)
            node.attributes["to"] = ir.AttrInt64("to", like.dtype.value)
        forms = [*_forms(model.graph)]
        result = optimizer.fold_constants_ir(
            model,
            onnx_shape_inference=not _has_all_shapes(model),
            input_size_limit=_NO_LIMIT,
            output_size_limit=LARGEST,
            should_fold=_should_fold,
        )
        for source, results in forms:
            _rename(model.graph, source, results)
        return ir.passes.PassResult(model, modified=result.modified or bool(kept))


def _forms(graph: ir.Graph) -> Iterator[tuple[ir.Value, list[str]]]:
    """Float arrays that are used once, and the names of their other forms, each made of the one before."""
    for source in graph.initializers.values():
        numbers, value, results = array(source), source, []
        if numbers is None or numbers.size < 2 or numbers.dtype.kind != "f":
            continue
        node = only_user(value)
        while node is not None and is_op(node, *_MOVES) and node.inputs[0] is value and _stays_float(node):
            value = node.outputs[0]
            if not value.is_graph_output():
                results.append(str(value.name))
            node = only_user(value)
        if results:
            yield source, results


def _stays_float(node: ir.Node) -> bool:
    return not is_op(node, "Cast") or ir.DataType(node.attributes["to"].as_int()).is_floating_point()


def _rename(graph: ir.Graph, source: ir.Value, results: list[str]) -> None:
    """Let the last form that was computed have the name of what it was made of."""
    result = next(
        (graph.initializers[name] for name in reversed(results) if name in graph.initializers), None
    )
    if result is None or source.uses() or source.is_graph_output():
        return
    kept = str(source.name)
    graph.initializers.pop(kept, None)
    result.name = kept
    assert result.const_value is not None  # it is an initializer
    result.const_value.name = kept


def _has_all_shapes(model: ir.Model) -> bool:
    """Whether inferring them again, node by node, which takes longest, could find out nothing."""
    outputs = (value for graph in model.graphs() for node in graph for value in node.outputs)
    sizes = (None if value.shape is None else list(map(str, value.shape)) for value in outputs)
    return all(dims is not None and not any(_UNKNOWN.match(dim) for dim in dims) for dims in sizes)


def _wraps(node: ir.Node) -> bool:
    """Whether this is a CastLike with ``saturate=0``, which the folder would forget, to a known type."""
    return (
        is_op(node, "CastLike")
        and not int_attribute(node, "saturate", 1)
        and node.inputs[1] is not None
        and node.inputs[1].dtype is not None
    )


def _should_fold(node: ir.Node) -> bool | None:
    if is_op(node, *_COPIES, "ConstantOfShape") and _grows(node):
        return False
    if _is_large(node):
        return False
    if is_op(node, *_SHAPE_OPS):
        return True  # the folder's own rule would keep ConstantOfShape
    if is_op(node, "Transpose"):
        weight = array(node.inputs[0])
        out = node.outputs[0]
        multiplies = any(is_op(user, "MatMul", "Gemm") for user in out.consumers())
        if weight is not None and weight.ndim == 2 and (multiplies or out.is_graph_output()):
            return False
    return None


def _is_large(node: ir.Node) -> bool:
    """Whether the result would be too large, and larger than what it is made of."""
    arrays = [numbers for numbers in map(array, node.inputs) if numbers is not None]
    if range_length(node) > LARGEST:
        return True
    shape = node.outputs[0].shape
    dims = [] if shape is None else [size for size in shape if isinstance(size, int)]
    if shape is None or len(dims) < len(shape):
        return False
    return math.prod(dims) > max([LARGEST, *(int(numbers.size) for numbers in arrays)])


def _grows(node: ir.Node) -> bool:
    """Whether the node makes copies of something learned, or a result too large to keep."""
    data, counts = (node.inputs[0], node.inputs[1]) if is_op(node, *_COPIES) else (None, node.inputs[0])
    numbers, sizes = array(data), array(counts)
    if sizes is None:
        return False
    before = 1 if numbers is None else numbers.size
    after = math.prod(int(size) for size in sizes.ravel()) * (before if is_op(node, "Tile") else 1)
    learned = numbers is not None and numbers.dtype.kind == "f" and before > 1
    return after > before and (learned or after > LARGEST)
