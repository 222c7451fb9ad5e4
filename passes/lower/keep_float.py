"""Leave operators in float, where that is faster."""

from __future__ import annotations

__all__ = ["KeepFloatPass", "kept_float", "quantized_value", "units"]

import logging
from collections.abc import Mapping

import numpy as np
import onnx_ir as ir

from .. import arithmetic, metadata
from ..constants import constant
from ..placement import MOVES
from ..values import add_initializer, array, is_activation, is_op, replace_value, unused_name
from .match import dequantized_weight

logger = logging.getLogger(__name__)

_PAIR = ("QuantizeLinear", "DequantizeLinear")


class KeepFloatPass(ir.passes.InPlacePass):
    """Take the quantization away inside regions of float operators.

    ``P -> Q [-> Clip] -> DQ -> C`` becomes ``P -> C`` where both P and C are to stay float; so do a graph
    input before C and a graph output behind P. At the border of a region the pairs stay, for
    ``WriteOutIslandsPass``.

    The weight of such an operator becomes ``Mul(Cast(codes), scale)``: the codes can be packed, and ONNX
    Runtime computes the product while loading, which it does not do for a DequantizeLinear. Other
    dequantized constants, biases among them, become float initializers.

    Operators without a pair between them are of one unit (``units``): all stay float if one does.

    Args:
        layers: Why an operator is to stay float, by the name of its first output. Other names are ignored.
    """

    def __init__(self, layers: Mapping[str, str]) -> None:
        super().__init__()
        self.layers = layers

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        graph = model.graph
        kept: set[ir.Node] = set()
        for unit in units(graph):
            reason = next((self.layers[n] for node in unit if (n := _name(node)) in self.layers), None)
            if reason is not None and not any(metadata.FLOAT in node.metadata_props for node in unit):
                kept.update(unit)
                for node in unit:
                    _note(node, reason)
        for node in list(graph) if kept else []:
            if not is_op(node, "DequantizeLinear"):
                continue
            if array(node.inputs[0]) is not None:
                _unfold(graph, node, kept)
            else:
                _bypass(graph, node, kept)
        if kept:
            logger.info("Kept %d operators in float", len(kept))
        return ir.passes.PassResult(model, modified=bool(kept))


def units(graph: ir.Graph) -> list[list[ir.Node]]:
    """The operators of a QDQ graph, those that real values connect together; in graph order."""
    unit_of: dict[ir.Node, list[ir.Node]] = {}
    for node in graph:
        if is_op(node, *_PAIR) or _clips_codes(node):
            continue
        unit = [node]
        for value in node.inputs:
            before = unit_of.get(value.producer()) if is_activation(value) and value is not None else None  # type: ignore[arg-type]
            if before is not None and before is not unit:
                before.extend(unit)
                unit_of.update(dict.fromkeys(unit, before))
                unit = before
        unit_of[node] = unit
    unique = {id(unit): unit for unit in unit_of.values()}
    return list(unique.values())


def kept_float(model: ir.Model) -> dict[str, str]:
    """What ``KeepFloatPass`` was told for the file that this is: ``layers``."""
    return {
        node.metadata_props[metadata.FLOAT]: node.metadata_props.get(metadata.ISLAND, "")
        for node in model.graph
        if metadata.FLOAT in node.metadata_props
    }


def _name(node: ir.Node) -> str:
    return str(node.outputs[0].name) if node.outputs else ""


def _clips_codes(node: ir.Node) -> bool:
    return is_op(node, "Clip") and node.inputs[0] is not None and is_op(node.inputs[0].producer(), _PAIR[0])


def _note(node: ir.Node, reason: str) -> None:
    node.metadata_props[metadata.FLOAT] = _name(node)
    if not is_op(node, *MOVES, "Dropout"):
        node.metadata_props[metadata.ISLAND] = reason


def _bypass(graph: ir.Graph, dequantize: ir.Node, kept: set[ir.Node]) -> None:
    """Let the float users of a dequantized value use the value itself, if a float operator makes it."""
    source = quantized_value(dequantize)
    producer = source.producer() if source is not None else None
    if source is None or (producer not in kept and not source.is_graph_input()):
        return
    real = dequantize.outputs[0]
    for use in tuple(real.uses()):
        if use.node in kept:
            use.node.replace_input_with(use.idx, source)
    if real.is_graph_output() and producer is not None and not source.is_graph_output():
        replace_value(real, source)
        for index, output in enumerate(graph.outputs):
            if output is real:
                graph.outputs[index] = source


def quantized_value(dequantize: ir.Node) -> ir.Value | None:
    """The real value before the pair."""
    codes = dequantize.inputs[0]
    node = codes.producer() if codes is not None else None
    if node is not None and _clips_codes(node):
        assert node.inputs[0] is not None
        node = node.inputs[0].producer()
    return node.inputs[0] if node is not None and is_op(node, "QuantizeLinear") else None


def _unfold(graph: ir.Graph, dequantize: ir.Node, kept: set[ir.Node]) -> None:
    """Give float operators a dequantized constant in a form that is computed while loading."""
    real = dequantize.outputs[0]
    uses = [use for use in real.uses() if use.node in kept]
    if not uses:
        return
    weight = dequantized_weight(real)
    if weight is None:
        new = _dequantized(graph, dequantize, f"{real.name}.float")
    else:
        codes = dequantize.inputs[0]
        assert codes is not None  # or it would be no weight
        column = weight.scale.reshape(-1, *[1] * (weight.codes.ndim - 1))
        scale = constant(graph, f"{weight.name}.scale_column", np.ascontiguousarray(column))
        notes = {
            metadata.WEIGHT: weight.name,
            metadata.WEIGHT_BITS: metadata.digits(weight.bits),
            metadata.GRID: weight.grid.value,
        }
        nodes = [ir.node("Cast", [codes], {"to": ir.DataType.FLOAT.value}, metadata_props=notes)]
        if weight.zero_point is not None:
            zero = weight.zero_point.astype(np.float32).reshape(-1, *column.shape[1:])
            nodes.append(ir.node("Sub", [nodes[0].outputs[0], constant(graph, f"{weight.name}.zero", zero)]))
        nodes.append(ir.node("Mul", [nodes[-1].outputs[0], scale]))
        for node in nodes:
            node.metadata_props[metadata.EXACT] = "DequantizeLinear"
            value = node.outputs[0]
            value.name = node.name = unused_name(graph, f"{weight.name}.{node.op_type.lower()}")
            value.type, value.shape = ir.TensorType(ir.DataType.FLOAT), ir.Shape(weight.codes.shape)
        graph.insert_before(dequantize, nodes)
        new = nodes[-1].outputs[0]
        if len(uses) == len(real.uses()):  # the DequantizeLinear goes away, and the weight has its name
            real.name, new.name = unused_name(graph, f"{real.name}.dq"), real.name
    for use in uses:
        use.node.replace_input_with(use.idx, new)


def _dequantized(graph: ir.Graph, dequantize: ir.Node, name: str) -> ir.Value:
    codes, scale = array(dequantize.inputs[0]), array(dequantize.inputs[1])
    zero = array(dequantize.inputs[2]) if len(dequantize.inputs) > 2 else None
    if codes is None or scale is None or scale.ndim > 1:  # nothing that a constant of ours looks like
        return dequantize.outputs[0]
    axis = dequantize.attributes.get_int("axis", 1) if codes.ndim > 1 else 0
    one = scale.reshape(()) if scale.size == 1 else scale
    offset = np.int32(0) if zero is None else zero.reshape(()) if zero.size == 1 else zero
    return add_initializer(graph, name, arithmetic.dequantize(codes, one, offset, axis=axis))
