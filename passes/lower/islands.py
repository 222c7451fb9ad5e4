"""Keep what stays float as it is, between the codes around it."""

from __future__ import annotations

__all__ = ["WriteOutIslandsPass"]

import dataclasses
import logging

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from .. import metadata
from ..constants import constant, scalar_of
from ..normalize.conv_transpose import refusal
from ..placement import MOVES, is_pass_through
from ..values import array, is_op, unused_name
from .build import REASON, replace, shaped
from .match import dequantized, dequantized_weight, requantization

logger = logging.getLogger(__name__)

_PRODUCTS = ("Gemm", "MatMul")
_NO_ISLAND = ("Dropout", "QuantizeLinear", "DequantizeLinear")


class WriteOutIslandsPass(ir.passes.InPlacePass):
    """Keep the operators that compute in float as they are, between DequantizeLinear and QuantizeLinear.

    ONNX Runtime makes one integer operator, of a rounding of its own, of DequantizeLinear, an operator and
    QuantizeLinear. So ``op -> Q`` becomes ``op -> Div -> Q`` of scale 1, which is the same arithmetic. Of
    DequantizeLinear and a product it makes one without ``Q`` too, and the Div it makes part of a MatMul:
    there a Max with the least number stands behind ``DQ``, and ``Q`` stays. Of a product by a dequantized
    constant it makes MatMulNBits, which rounds ``x`` to 8 bits: the constant becomes Cast, Sub and Mul, which
    are computed while loading. Every operator between them gets the note ``mpqtool.island`` with the reason.

    Left alone: QuantizeLinear of a graph input, less its offset or not, other constants, and what is part of
    an exact form.

    Run last among the lowering passes: what this pass has seen is not lowered any more.
    """

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        graph = model.graph
        nodes = [node for node in graph if metadata.EXACT not in node.metadata_props]
        ends = sum(_end(graph, node) for node in nodes if node.op_type == "QuantizeLinear")
        starts = sum(_guard(graph, node) for node in nodes if node.op_type == "DequantizeLinear")
        weights = sum(_write_out(graph, node) for node in nodes if node.op_type == "DequantizeLinear")
        islands = sum(_note(node) for node in nodes if node.graph is graph)
        if islands:
            logger.info("Left %d operators in float", islands)
        return ir.passes.PassResult(model, modified=bool(ends + starts + weights + islands))


def _guard(graph: ir.Graph, node: ir.Node) -> bool:
    """Keep DequantizeLinear apart from products."""
    real = node.outputs[0]
    uses = [use for use in real.uses() if metadata.EXACT not in use.node.metadata_props]
    if dequantized(real) is None or not any(_is_product(use.node) for use in uses):
        return False
    least = constant(graph, "float_min", np.finfo(np.float32).min)
    guard = ir.node("Max", [real, least], metadata_props={metadata.EXACT: "island"})
    name = unused_name(graph, f"{real.name}.guarded")
    guard.name = name
    shaped(guard.outputs[0], name, ir.DataType.FLOAT, real)
    for use in uses:
        use.node.replace_input_with(use.idx, guard.outputs[0])
    graph.insert_after(node, guard)
    return True


def _write_out(graph: ir.Graph, node: ir.Node) -> bool:
    """Make the dequantized constant of a product one that is computed, with the same arithmetic."""
    codes, scale, real = array(node.inputs[0]), array(node.inputs[1]), node.outputs[0]
    zero = array(node.inputs[2]) if len(node.inputs) > 2 else None
    if codes is None or scale is None or scale.ndim > 1 or not any(_is_product(u.node) for u in real.uses()):
        return False
    name, axis = str(real.name), node.attributes.get_int("axis", 1)

    def along(numbers: NDArray[np.generic]) -> NDArray[np.float32]:
        shape = [1] * codes.ndim
        if numbers.size > 1:
            shape[axis] = -1
        return numbers.astype(np.float32).reshape(shape)

    nodes = [ir.node("Cast", [node.inputs[0]], {"to": ir.DataType.FLOAT.value})]
    weight = dequantized_weight(real)
    if weight is not None and codes.dtype == np.int8:
        nodes[0].metadata_props[metadata.WEIGHT] = weight.name
        nodes[0].metadata_props[metadata.WEIGHT_BITS] = metadata.digits(weight.bits)
        nodes[0].metadata_props[metadata.GRID] = weight.grid.value
    if zero is not None and zero.any():
        nodes.append(ir.node("Sub", [nodes[-1].outputs[0], constant(graph, f"{name}.zero_row", along(zero))]))
    nodes.append(ir.node("Mul", [nodes[-1].outputs[0], constant(graph, f"{name}.scale_row", along(scale))]))
    real.name = unused_name(graph, f"{name}.dq")
    for made in nodes:
        last = made is nodes[-1]
        label = name if last else unused_name(graph, f"{name}.{made.op_type.lower()}")
        made.name, made.metadata_props[metadata.EXACT] = label, "DequantizeLinear"
        shaped(made.outputs[0], label, ir.DataType.FLOAT, real)
    ir.convenience.replace_nodes_and_values(graph, node, [node], nodes, [real], [nodes[-1].outputs[0]])
    return True


def _is_product(node: ir.Node) -> bool:
    """Whether it is a product, or something behind it is that ONNX Runtime would move DequantizeLinear to."""
    if is_op(node, *_PRODUCTS):
        return True
    moves = is_op(node, "MaxPool", *MOVES)
    return moves and any(_is_product(use.node) for output in node.outputs for use in output.uses())


def _end(graph: ir.Graph, node: ir.Node) -> bool:
    """Make the codes that an island ends in."""
    source = node.inputs[0]
    assert source is not None
    shift = source.producer()
    if shift is not None and metadata.OFFSET in shift.metadata_props:  # the Sub of an offset
        source = shift.inputs[0]
        assert source is not None
    end = requantization(node)
    if source.is_graph_input() or metadata.ISLAND in node.metadata_props:
        return False
    if end is None:  # int16 codes, or int8 ones that are shown, or with one scale per channel
        _scale_before(graph, node)
        node.metadata_props[metadata.ISLAND] = ""
        return True
    new, inputs = [], list(node.inputs)
    if not is_op(source.producer(), *_PRODUCTS):
        new.append(ir.node("Div", [node.inputs[0], constant(graph, f"{end.name}.scale", end.scale)]))
        new[0].name = unused_name(graph, f"{end.codes.name}.div")
        new[0].metadata_props[metadata.EXACT] = "island"
        inputs[:2] = [
            shaped(new[0].outputs[0], new[0].name, ir.DataType.FLOAT, end.codes),
            constant(graph, "float1", np.float32(1)),
        ]
    new.append(ir.node("QuantizeLinear", inputs))
    if (end.low, end.high) != (0, 255):
        new[-1].metadata_props[metadata.EXACT] = "island"
        name = unused_name(graph, f"{end.codes.name}.wide")
        low, high = (constant(graph, f"code{code}", np.uint8(code)) for code in (end.low, end.high))
        wide = shaped(new[-1].outputs[0], name, ir.DataType.UINT8, end.codes)
        new.append(ir.node("Clip", [wide, low, high]))
    new[-1].metadata_props[metadata.ISLAND] = ""
    behind = dataclasses.replace(end, nodes=tuple(n for n in end.nodes if n is not node))
    return replace(node, behind, new, clamped=True)


def _scale_before(graph: ir.Graph, node: ir.Node) -> None:
    """Divide by the one scale of a QuantizeLinear before it: ONNX Runtime would quantize the bias, too."""
    source, scale, codes = node.inputs[0], scalar_of(node.inputs[1]), node.outputs[0]
    if source is None or scale is None or scale.dtype != np.float32 or is_op(source.producer(), *_PRODUCTS):
        return
    divide = ir.node("Div", [source, constant(graph, f"{codes.name}.scale", scale)])
    divide.name = unused_name(graph, f"{codes.name}.div")
    divide.metadata_props[metadata.EXACT] = "island"
    node.replace_input_with(0, shaped(divide.outputs[0], divide.name, ir.DataType.FLOAT, codes))
    node.replace_input_with(1, constant(graph, "float1", np.float32(1)))
    graph.insert_before(node, divide)


def _note(node: ir.Node) -> bool:
    """Stamp an operator that computes in float; moving float values about, computing none, is no island."""
    # What is in our own domain here is a unit of the normal form, such as Silu.
    known = node.domain not in ("", metadata.DOMAIN) or node.op_type in _NO_ISLAND
    known = known or (is_op(node, *MOVES) and is_pass_through(node))
    if known or metadata.ISLAND in node.metadata_props or metadata.EXACT in node.metadata_props:
        return False
    if not node.outputs or node.outputs[0].dtype not in (None, ir.DataType.FLOAT):
        return False
    node.metadata_props[metadata.ISLAND] = _reason(node)
    return True


def _reason(node: ir.Node) -> str:
    stored = is_op(node, "ConvTranspose") and array(node.inputs[1]) is not None
    fault = refusal(node) if stored else None
    if fault is not None:
        return f"it cannot become a Conv, as {fault}"
    reason: str = node.meta.get(REASON, "it has no integer form")
    return reason
