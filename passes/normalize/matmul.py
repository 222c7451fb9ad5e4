"""One form for matrix products of tensors of rank 3 and more."""

from __future__ import annotations

__all__ = ["FlattenMatMulPass"]

import logging

import numpy as np
import onnx_ir as ir

from ..values import (
    add_initializer,
    array,
    gathered_names,
    is_activation,
    is_op,
    only_user,
    own,
    stamp,
    unused_name,
)
from .build import is_clamp, move_behind
from .gemm import weight_source

logger = logging.getLogger(__name__)


class FlattenMatMulPass(ir.passes.InPlacePass):
    """Multiply the rows of a tensor of rank 3 and more as one matrix. Exact, but for the order of the sum.

    Before: ``t = MatMul(x, w)  y = Add(t, b)``, ``x[n, 64, 128]``, ``w[128, 512]``, ``b[512]``
    After:  ``r = Flatten<axis=2>(x)  t = MatMul(r, w)  s = Add(t, b)  y = Reshape(s, {-1, 64, 512})``

    A Relu or Clip that alone uses the result stays with it, before the Reshape; a Reshape that alone uses it
    takes its place. Layers of one ``x`` share the Flatten. Where more than the first dimension is free, the
    target is computed from the shape of ``x``.

    Run before ``CanonicalizeGemmPass``, which makes one Gemm of the product and its bias.

    Left alone: a weight that is not constant or not of rank 2, one that several nodes use, as the steps of a
    recurrent layer (it would become several), ``x`` of unknown rank, and sizes of 0.
    """

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        with gathered_names(model.graph):
            flattener = _Flattener(model.graph, self)
            rewritten = sum(flattener.rewrite(node) for node in model.graph if is_op(node, "MatMul"))
        if rewritten:
            logger.info("Flattened the rows of %d MatMul nodes", rewritten)
        return ir.passes.PassResult(model, modified=bool(rewritten))


class _Flattener:
    """Flattens layer after layer, and remembers what they share."""

    def __init__(self, graph: ir.Graph, pass_: ir.passes.PassBase) -> None:
        self.graph, self.pass_ = graph, pass_
        self._rows: dict[ir.Value, ir.Value] = {}
        self._sizes: dict[ir.Value, ir.Value] = {}

    def rewrite(self, node: ir.Node) -> bool:
        x, source = node.inputs[0], weight_source(node)
        if x is None or source is None or not is_activation(x):
            return False
        if x.shape is None or len(x.shape) < 3 or 0 in x.shape:
            return False
        weight, transposed = source
        if any(value is None or only_user(value) is None for value in (node.inputs[1], weight)):
            return False
        numbers = array(weight)
        assert numbers is not None  # it is a source
        kernels = numbers.shape[0 if transposed else 1]
        node.replace_input_with(0, self._rows_of(x, node))
        layer = [node]
        add = self._take_bias(node, kernels)
        if add is not None:
            layer.append(add)
        while (user := only_user(layer[-1].outputs[0])) is not None and is_clamp(user):
            layer.append(user)
        end = layer[-1].outputs[0]
        whole = end.shape
        for part in layer:
            part.outputs[0].shape = ir.Shape([None, kernels])
        if not self._reshape_takes_rows(end):
            target = self._target(x, node, str(end.name), kernels)
            back = stamp(ir.node("Reshape", [None, target]), self.pass_)
            move_behind(self.graph, layer[-1], back, "rows")
            back.outputs[0].shape = whole
        return True

    def _rows_of(self, x: ir.Value, node: ir.Node) -> ir.Value:
        """``x`` as one matrix, made before its first user."""
        if x not in self._rows:
            assert x.shape is not None  # rewrite() has looked
            axis = len(x.shape) - 1
            made = self._insert_before(node, "Flatten", [x], f"{x.name}.rows", axis=axis)
            made.type, made.shape = x.type, ir.Shape([None, x.shape[axis]])
            self._rows[x] = made
        return self._rows[x]

    def _take_bias(self, node: ir.Node, kernels: int) -> ir.Node | None:
        """The Add of a constant row that alone uses a product, its row of rank 1."""
        out = node.outputs[0]
        add = only_user(out)
        if add is None or not is_op(add, "Add"):
            return None
        index = 1 if add.inputs[0] is out else 0
        value = add.inputs[index]
        numbers = array(value)
        if value is None or numbers is None or numbers.ndim == 0 or numbers.shape[-1] != kernels:
            return None
        if numbers.size != kernels or numbers.ndim > len(out.shape or ()):
            return None
        if numbers.ndim > 1:
            copy = f"{value.name}_{node.name}"
            row = own(self.graph, value, numbers.reshape(-1), users=(add,), copy=copy)
            add.replace_input_with(index, row)
        return add

    def _reshape_takes_rows(self, rows: ir.Value) -> bool:
        """Let a Reshape that alone uses a result take it as rows, if its target can be said without them."""
        user = only_user(rows)
        shape = user.outputs[0].shape if user is not None and is_op(user, "Reshape") else None
        if user is None or shape is None or user.inputs[0] is not rows:
            return False
        free = [axis for axis, size in enumerate(shape) if not isinstance(size, int)] or [0]
        if len(free) > 1 or 0 in shape or not len(shape):
            return False
        target = np.array([-1 if axis in free else size for axis, size in enumerate(shape)], np.int64)
        name = f"{user.outputs[0].name}.shape"
        user.replace_input_with(1, add_initializer(self.graph, name, target))
        return True

    def _target(self, x: ir.Value, node: ir.Node, name: str, kernels: int) -> ir.Value:
        """The shape of ``x`` with another last size, free of the first if that alone can vary."""
        assert x.shape is not None  # rewrite() has looked
        inner = [size for size in x.shape[1:-1] if isinstance(size, int)]
        if len(inner) == len(x.shape) - 2:
            return add_initializer(self.graph, f"{name}.shape", np.array([-1, *inner, kernels], np.int64))
        if x not in self._sizes:
            self._sizes[x] = self._insert_before(node, "Shape", [x], f"{x.name}.sizes", end=-1)
        count = add_initializer(self.graph, f"{name}.size", np.array([kernels], np.int64))
        return self._insert_before(node, "Concat", [self._sizes[x], count], f"{name}.shape", axis=0)

    def _insert_before(
        self, node: ir.Node, op: str, inputs: list[ir.Value], name: str, **attributes: int
    ) -> ir.Value:
        made = stamp(ir.node(op, inputs, attributes, name=name), self.pass_)
        made.outputs[0].name = unused_name(self.graph, name)
        self.graph.insert_before(node, made)
        return made.outputs[0]
