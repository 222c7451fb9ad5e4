"""One form for matrix products with a constant weight."""

from __future__ import annotations

__all__ = ["CanonicalizeGemmPass", "weight_source"]

import logging

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from ..values import (
    array,
    as_row,
    float_attribute,
    gathered_names,
    int_attribute,
    is_canonical_gemm,
    is_op,
    only_user,
    own,
    replace_value,
    stamp,
    unused_name,
)

logger = logging.getLogger(__name__)


class CanonicalizeGemmPass(ir.passes.InPlacePass):
    """Rewrite ``x @ W + b`` with constant ``W`` to ``Gemm(x, w, b, transB=1)``, ``w`` of ``[out, in]``.

    Before: ``t = MatMul(x, w)  y = Add(t, b)``    After: ``y = Gemm<transB=1>(x, w, b)``, ``w`` transposed

    1. ``MatMul(x, W)`` with ``x`` of rank 2, and the ``Add`` of a constant ``[out]``, ``[1, out]`` or
       scalar that alone uses it, become one Gemm.
    2. ``Transpose(W)`` before MatMul or Gemm is taken in; so are ``transB=0``, ``alpha`` and ``beta``.
    3. ``transA=1`` becomes a Transpose of ``x``. A Gemm bias that is not constant, or has more than one
       row, becomes an Add behind.
    4. ``MatMul(x, Transpose(W))`` with ``x`` of another rank becomes ``MatMul(x, w)``, ``w`` transposed.

    The weight and the bias keep their names. One that other nodes use too is copied, not edited:
    this ends the sharing. Left alone: other MatMul of other ranks, or of unknown rank, and weights that
    are not constant.
    """

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        rewritten = 0
        with gathered_names(model.graph):
            for node in model.graph:
                if is_op(node, "MatMul"):
                    rewritten += _matmul(node, self)
                elif is_op(node, "Gemm"):
                    rewritten += _gemm(node, self)
        if rewritten:
            logger.info("Rewrote %d MatMul and Gemm nodes", rewritten)
        return ir.passes.PassResult(model, modified=bool(rewritten))


def _matmul(node: ir.Node, pass_: ir.passes.PassBase) -> bool:
    x, source = node.inputs[0], weight_source(node)
    if x is None or source is None:
        return False
    weight, transposed = source
    if x.shape is None or len(x.shape) != 2:
        return transposed and _take_in_transpose(node, weight)
    graph, out = _graph(node), node.outputs[0]
    inputs: list[ir.Value | None] = [x, _in_kernel_rows(node, weight, transposed, 1.0)]
    add = only_user(out)
    bias = _added_constant(add, out, len(_numbers(inputs[1])))
    last = node
    if add is not None and bias is not None:
        value, numbers = bias
        inputs.append(_own(add, value, numbers))
        last = add
    gemm = stamp(ir.node("Gemm", inputs, {"transB": 1}, name=node.name), pass_)
    graph.insert_before(last, gemm)
    replace_value(last.outputs[0], gemm.outputs[0])
    graph.remove([add, node] if last is add and add is not None else [node], safe=True)
    return True


def _take_in_transpose(node: ir.Node, weight: ir.Value) -> bool:
    """Store the weight of a MatMul of another rank as it is multiplied, under its own name."""
    turned = node.inputs[1]
    assert turned is not None  # it was the source of the weight
    turn = turned.producer()
    assert turn is not None
    rows = np.ascontiguousarray(_numbers(weight).T)
    users = (turn,) if only_user(turned) is node else ()
    node.replace_input_with(
        1, own(_graph(node), weight, rows, users=users, copy=f"{weight.name}_{node.name}")
    )
    return True


def _gemm(node: ir.Node, pass_: ir.passes.PassBase) -> bool:
    source = weight_source(node)
    if source is None or _is_settled(node):
        return False
    weight, transposed = source
    if int_attribute(node, "transB", 0):
        transposed = not transposed
    alpha, beta = float_attribute(node, "alpha", 1.0), float_attribute(node, "beta", 1.0)
    graph = _graph(node)
    kernels = _in_kernel_rows(node, weight, transposed, alpha)
    node.replace_input_with(1, kernels)
    if int_attribute(node, "transA", 0):
        a = node.inputs[0]
        turn = stamp(ir.node("Transpose", [a], {"perm": [1, 0]}, name=f"{node.name}.transpose"), pass_)
        turn.outputs[0].name = unused_name(graph, f"{node.outputs[0].name}.transposed")
        graph.insert_before(node, turn)
        node.replace_input_with(0, turn.outputs[0])
    bias = node.inputs[2] if len(node.inputs) > 2 else None
    if bias is not None:
        numbers = as_row(array(bias), len(_numbers(kernels)), rank=2)
        if numbers is not None:
            numbers = numbers * np.float32(beta)
            if not np.array_equal(numbers, _numbers(bias)):
                node.replace_input_with(2, _own(node, bias, numbers))
        elif beta == 1.0:
            _split_bias(node, bias, pass_)
        else:
            node.attributes["alpha"] = ir.AttrFloat32("alpha", 1.0)
            node.attributes["transB"] = ir.AttrInt64("transB", 1)
            node.attributes.pop("transA", None)
            return True
    node.attributes.clear()
    node.attributes["transB"] = ir.AttrInt64("transB", 1)
    return True


def _is_settled(node: ir.Node) -> bool:
    """Whether the Gemm is canonical, or has a ``beta`` that its bias cannot take in."""
    weight = array(node.inputs[1])
    bias = node.inputs[2] if len(node.inputs) > 2 else None
    numbers = array(bias)
    if weight is None:
        return False
    if is_canonical_gemm(node):
        return bias is None or (numbers is not None and numbers.shape == (len(weight),))
    plain = int_attribute(node, "transB", 0) == 1 and not int_attribute(node, "transA", 0)
    plain = plain and float_attribute(node, "alpha", 1.0) == 1.0
    return plain and bias is not None and as_row(numbers, len(weight), rank=2) is None


def _split_bias(node: ir.Node, bias: ir.Value, pass_: ir.passes.PassBase) -> None:
    out, graph = node.outputs[0], _graph(node)
    node.resize_inputs(2)
    add = stamp(ir.node("Add", [None, bias], name=f"{node.name}.bias"), pass_)
    graph.insert_after(node, add)
    replace_value(out, add.outputs[0])
    out.name = unused_name(graph, f"{add.outputs[0].name}.product")
    out.type, out.shape = add.outputs[0].type, add.outputs[0].shape
    add.replace_input_with(0, out)


def weight_source(node: ir.Node) -> tuple[ir.Value, bool] | None:
    """The initializer of rank 2 behind input 1, and whether a Transpose lies between that swaps its axes."""
    value, transposed = node.inputs[1], False
    producer = value.producer() if value is not None else None
    if producer is not None and is_op(producer, "Transpose"):
        order = producer.attributes.get("perm")
        value, transposed = producer.inputs[0], order is None or tuple(order.as_ints()) == (1, 0)
    numbers = array(value)
    if value is None or numbers is None or numbers.ndim != 2 or numbers.dtype != np.float32:
        return None
    return value, transposed


def _in_kernel_rows(node: ir.Node, weight: ir.Value, transposed: bool, alpha: float) -> ir.Value:
    """The weight as ``[out, in]`` times alpha, given that a plain one is ``[in, out]``."""
    numbers = _numbers(weight)
    if transposed and alpha == 1.0:
        return weight
    rows = numbers if transposed else numbers.T
    return _own(node, weight, np.ascontiguousarray(rows) * np.float32(alpha))


def _own(node: ir.Node, value: ir.Value, numbers: NDArray[np.float32]) -> ir.Value:
    return own(_graph(node), value, numbers, users=(node,), copy=f"{value.name}_{node.name}")


def _added_constant(
    add: ir.Node | None, out: ir.Value, kernels: int
) -> tuple[ir.Value, NDArray[np.float32]] | None:
    """The other operand of an Add, as a row, if it is a constant that fits as a bias."""
    if add is None or not is_op(add, "Add"):
        return None
    other = add.inputs[1] if add.inputs[0] is out else add.inputs[0]
    numbers = as_row(array(other), kernels, rank=2)
    return None if other is None or numbers is None else (other, numbers)


def _numbers(value: ir.Value | None) -> NDArray[np.float32]:
    numbers = array(value)
    assert numbers is not None  # callers have looked
    return numbers


def _graph(node: ir.Node) -> ir.Graph:
    assert isinstance(node.graph, ir.Graph)  # the caller iterates over one
    return node.graph
