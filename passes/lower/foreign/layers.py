"""Bring Gemm and MatMul of quantized weights to ``x @ w.T + bias``."""

from __future__ import annotations

__all__ = ["CanonicalLayersPass", "real_constant"]

import logging

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from ... import arithmetic
from ...constants import constant
from ...values import (
    add_initializer,
    array,
    float_attribute,
    int_attribute,
    is_op,
    only_user,
    unused_name,
)
from .constants import block_size

logger = logging.getLogger(__name__)


class CanonicalLayersPass(ir.passes.InPlacePass):
    """Write layers on DequantizeLinear weights as the lowering passes know them.

    1. ``Gemm <transB = 0, alpha, beta> (x, w, b)`` becomes ``Gemm <transB = 1> (x, w', b')``: the codes
       transposed, the scales along axis 0, ``alpha`` in the scale and ``beta`` in the bias.
    2. ``MatMul (x, w)``, and the ``Add`` of a constant row behind it, become such a Gemm, between two Reshape
       where ``x`` is not of rank 2.
    3. Constants that are added to, or multiplied with, an activation become float: they are no codes.
    4. A bias of other codes than int32 with zero point 0 becomes float: lowering rounds it to
       ``s_x * s_w`` once.

    Left alone: transA, an ``alpha`` that is not positive, weights with scales block by block, computed
    biases, a MatMul of unknown rank.
    """

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        changed = 0
        for node in list(model.graph):
            if is_op(node, "Gemm"):
                changed += _write_gemm(model.graph, node)
            elif is_op(node, "MatMul"):
                changed += _write_matmul(model.graph, node)
            if is_op(node, "Conv", "Gemm", "ConvTranspose"):
                changed += _float_constant(model.graph, node, 2)
            elif is_op(node, "Add", "Sub", "Mul", "Div"):
                changed += sum(_float_constant(model.graph, node, index) for index in (0, 1))
        if changed:
            logger.info("Wrote %d layers on quantized weights in another form", changed)
        return ir.passes.PassResult(model, modified=bool(changed))


def _write_gemm(graph: ir.Graph, node: ir.Node) -> bool:
    alpha, beta = float_attribute(node, "alpha", 1.0), float_attribute(node, "beta", 1.0)
    transposed = int_attribute(node, "transB", 0) == 1
    if (transposed and alpha == beta == 1.0) or int_attribute(node, "transA", 0) or alpha <= 0:
        return False
    dequantize = _weight(node)
    bias = node.inputs[2] if len(node.inputs) > 2 else None
    numbers = None if bias is None or beta == 1.0 else real_constant(bias)
    if dequantize is None or (bias is not None and beta != 1.0 and numbers is None):
        return False
    weight = _transposed(graph, dequantize, np.float32(alpha), swap=not transposed)
    node.replace_input_with(1, weight)
    if bias is not None and numbers is not None:
        node.replace_input_with(2, add_initializer(graph, f"{bias.name}.scaled", numbers * np.float32(beta)))
    node.attributes.clear()
    node.attributes["transB"] = ir.AttrInt64("transB", 1)
    return True


def _write_matmul(graph: ir.Graph, node: ir.Node) -> bool:
    x, dequantize = node.inputs[0], _weight(node)
    if x is None or x.shape is None or dequantize is None or array(x) is not None:
        return False
    rows, folded = list(x.shape[:-1]), len(x.shape) != 2
    if not rows:
        return False
    weight = _transposed(graph, dequantize, np.float32(1), swap=True)
    assert weight.shape is not None  # it is made with one
    kernels, inner = weight.shape.numpy()
    inputs, gone, out = [x, weight], [node], node.outputs[0]
    bias = _row_behind(graph, out, kernels, len(x.shape))
    if bias is not None:
        add, row = bias
        inputs.append(row)
        gone, out = [node, add], add.outputs[0]
    new = []
    if folded:
        new.append(ir.node("Reshape", [x, constant(graph, f"rows.{inner}", np.array([-1, inner]))]))
        inputs[0] = new[0].outputs[0]
        inputs[0].name, inputs[0].type = unused_name(graph, f"{out.name}.rows"), x.type
        inputs[0].shape = ir.Shape([None, inner])
    gemm = ir.node("Gemm", inputs, {"transB": 1}, name=node.name)
    new.append(gemm)
    if folded:
        made = gemm.outputs[0]
        made.name, made.type = unused_name(graph, f"{out.name}.product"), out.type
        made.shape = ir.Shape([None, kernels])
        computed, shape = _shape_behind(graph, x, kernels)
        new += [*computed, ir.node("Reshape", [made, shape])]
    last = new[-1].outputs[0]
    last.name, last.type, last.shape = out.name, out.type, out.shape
    ir.convenience.replace_nodes_and_values(graph, gone[-1], gone, new, [out], [last])
    return True


def _shape_behind(graph: ir.Graph, x: ir.Value, kernels: int) -> tuple[list[ir.Node], ir.Value]:
    """The shape of ``x`` with another last size, and the nodes that compute it where several are free."""
    assert x.shape is not None  # the caller has looked
    sizes = [size if isinstance(size, int) else -1 for size in x.shape[:-1]]
    if sizes.count(-1) <= 1:
        name = "shape." + "x".join(map(str, [*sizes, kernels]))
        return [], constant(graph, name, np.array([*sizes, kernels]))
    rows = ir.node("Shape", [x], {"end": -1})
    last = constant(graph, f"size.{kernels}", np.array([kernels]))
    shape = ir.node("Concat", [rows.outputs[0], last], {"axis": 0})
    for made, label in ((rows, "sizes"), (shape, "shape")):
        value = made.outputs[0]
        value.name = made.name = unused_name(graph, f"{x.name}.{label}{kernels}")
        value.type = ir.TensorType(ir.DataType.INT64)
        value.shape = ir.Shape([len(sizes) + (made is shape)])
    return [rows, shape], shape.outputs[0]


def _row_behind(graph: ir.Graph, value: ir.Value, kernels: int, rank: int) -> tuple[ir.Node, ir.Value] | None:
    """The Add of a constant row that alone uses a value, and the row as ``[kernels]``."""
    add = only_user(value)
    if add is None or not is_op(add, "Add"):
        return None
    other = add.inputs[1] if add.inputs[0] is value else add.inputs[0]
    held = None if other is None else real_constant(other)
    if other is None or held is None or not 1 <= held.ndim <= rank:
        return None
    if held.shape != (1,) * (held.ndim - 1) + (kernels,):
        return None
    if held.ndim == 1 and array(other) is not None:
        return add, other
    return add, add_initializer(graph, f"{other.name}.row", held.reshape(-1))


def _float_constant(graph: ir.Graph, node: ir.Node, index: int) -> bool:
    """Make a dequantized constant float; not an int32 bias, which lowering reads."""
    value = node.inputs[index] if len(node.inputs) > index else None
    dequantize = value.producer() if value is not None else None
    if value is None or dequantize is None or not is_op(dequantize, "DequantizeLinear"):
        return False
    codes, zero = (
        array(dequantize.inputs[0]),
        array(dequantize.inputs[2]) if len(dequantize.inputs) > 2 else None,
    )
    if codes is None or (index == 2 and codes.dtype == np.int32 and not np.any(0 if zero is None else zero)):
        return False
    numbers = real_constant(value)
    if numbers is None:
        return False
    node.replace_input_with(index, constant(graph, f"{value.name}.real", numbers))
    return True


def _weight(node: ir.Node) -> ir.Node | None:
    """The DequantizeLinear of a constant of rank 2 that makes the weight of a Gemm or MatMul."""
    value = node.inputs[1]
    dequantize = value.producer() if value is not None else None
    if dequantize is None or not is_op(dequantize, "DequantizeLinear") or block_size(dequantize):
        return None
    codes, scale = array(dequantize.inputs[0]), array(dequantize.inputs[1])
    fits = codes is not None and codes.ndim == 2 and scale is not None and scale.dtype == np.float32
    return dequantize if fits else None


def _transposed(graph: ir.Graph, dequantize: ir.Node, factor: np.float32, *, swap: bool) -> ir.Value:
    """The weight with its axes swapped and its scale multiplied, from a DequantizeLinear of its own."""
    codes, scale = array(dequantize.inputs[0]), array(dequantize.inputs[1])
    assert codes is not None  # _weight has looked
    assert scale is not None
    old = dequantize.outputs[0]
    axis = int_attribute(dequantize, "axis", 1) % 2
    inputs = list(dequantize.inputs)
    if swap:
        inputs[0] = add_initializer(graph, f"{inputs[0].name if inputs[0] else old.name}.T", codes.T.copy())
        axis = 1 - axis
    if factor != 1:
        inputs[1] = add_initializer(graph, f"{old.name}.alpha_scale", np.asarray(scale * factor, np.float32))
    new = ir.node("DequantizeLinear", inputs, {"axis": axis}, metadata_props=dict(dequantize.metadata_props))
    new.meta.update(dequantize.meta)
    real = new.outputs[0]
    real.name = unused_name(graph, f"{old.name}.T" if swap else f"{old.name}.alpha")
    real.type = ir.TensorType(ir.DataType.FLOAT)
    real.shape = ir.Shape(codes.T.shape if swap else codes.shape)
    new.name = real.name
    graph.insert_after(dequantize, new)
    return real


def real_constant(value: ir.Value | None) -> NDArray[np.float32] | None:
    """A constant, stored as it is or as codes; float32."""
    held = array(value)
    if held is not None:
        return held if held.dtype == np.float32 else None
    node = value.producer() if value is not None else None
    if node is None or not is_op(node, "DequantizeLinear") or block_size(node):
        return None
    codes, scale = array(node.inputs[0]), array(node.inputs[1])
    zero = array(node.inputs[2]) if len(node.inputs) > 2 else np.zeros((), np.int32)
    if codes is None or scale is None or zero is None or scale.dtype != np.float32:
        return None
    axis = int_attribute(node, "axis", 1) if codes.ndim > 1 else 0
    if scale.size == 1:
        scale, zero = scale.reshape(()), zero.reshape(-1)[0]
    return arithmetic.dequantize(codes, scale, zero, axis=axis)
