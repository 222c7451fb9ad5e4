"""Leave operators in float, where that is faster."""

from __future__ import annotations

__all__ = ["KeepFloatPass", "kept_float", "quantized_value", "units"]

import logging
from collections.abc import Collection, Mapping
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from .. import arithmetic, metadata
from ..constants import constant, scalar_of
from ..errors import PassError
from ..placement import MOVES, is_pass_through
from ..values import add_initializer, array, is_activation, is_op, replace_value, unused_name
from .match import dequantized_weight

logger = logging.getLogger(__name__)

_PAIR = ("QuantizeLinear", "DequantizeLinear")


class KeepFloatPass(ir.passes.InPlacePass):
    """Take the quantization away inside regions of float operators.

    ``P -> Q [-> Clip] -> DQ -> C`` becomes ``P -> C`` where both P and C are to stay float; so do a graph
    input before C and a graph output behind P. At the border of a region the pairs stay, for
    ``WriteOutIslandsPass``.

    What goes is the rounding. The clamp of a pair of 8 bits of ours goes with it: its range is that of the
    values. A narrower pair may have learned to clip, which the network relies on, and other tools leave out a
    Relu where the codes cannot be negative. Such a clamp stays, in real numbers, and takes the place of a
    Relu before it, so that ONNX Runtime makes one operator of Conv and clamp:

    ``P -> [Relu ->] Q -> Clip (low, high) -> DQ -> C`` becomes
    ``P -> Clip (s * (low - z), s * (high - z)) -> C``

    Behind one that is only moved or pooled there is no second one of the same bounds.

    The weight of such an operator becomes ``Mul(Cast(codes), scale)``: the codes can be packed, and ONNX
    Runtime computes the product while loading, which it does not do for a DequantizeLinear. Other
    dequantized constants, biases among them, become float initializers.

    Operators without a pair between them are of one unit (``units``): all stay float if one does.

    Args:
        layers: Why an operator is to stay float, by the name of its first output.
        ignore_unknown: Whether names of no operator are ignored.

    Raises:
        PassError: No operator has a name.
    """

    def __init__(self, layers: Mapping[str, str], *, ignore_unknown: bool = False) -> None:
        super().__init__()
        self.layers, self.ignore_unknown = layers, ignore_unknown

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        graph = model.graph
        kept: dict[ir.Node, str] = {}
        found = units(graph) if self.layers else []
        unknown = self.layers.keys() - {_name(node) for unit in found for node in unit}
        if unknown and not self.ignore_unknown:
            raise PassError(
                f"Cannot leave {min(unknown)!r} in float: no operator has a first output of this name. "
                "Name the first outputs of operators of the QDQ file."
            )
        for unit in found:
            reason = next((self.layers[n] for node in unit if (n := _name(node)) in self.layers), None)
            if reason is not None and not any(metadata.FLOAT in node.metadata_props for node in unit):
                kept.update(dict.fromkeys(unit, reason))
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


def _bypass(graph: ir.Graph, dequantize: ir.Node, kept: dict[ir.Node, str]) -> None:
    """Let the float users of a dequantized value use the value itself, if a float operator makes it."""
    source = quantized_value(dequantize)
    producer = source.producer() if source is not None else None
    if source is None or (producer not in kept and not source.is_graph_input()):
        return
    real = dequantize.outputs[0]
    uses = [use for use in real.uses() if use.node in kept]
    is_output = real.is_graph_output() and producer is not None and not source.is_graph_output()
    if not uses and not is_output:
        return
    clamp = _clamp(graph, dequantize, source)
    if clamp is not None:
        clamp.metadata_props[metadata.ISLAND] = kept[producer if producer in kept else uses[0].node]
        source = clamp.outputs[0]
    for use in uses:
        use.node.replace_input_with(use.idx, source)
    if is_output:
        replace_value(real, source)
        for index, output in enumerate(graph.outputs):
            if output is real:
                graph.outputs[index] = source


def _clamp(graph: ir.Graph, dequantize: ir.Node, source: ir.Value) -> ir.Node | None:
    """The clamp of a pair in real numbers, before the DequantizeLinear; None if it bounds nothing on purpose.

    Other tools leave out a Relu where the codes cannot be negative: there every range is on purpose.
    """
    clip, scale = dequantize.inputs[0].producer(), scalar_of(dequantize.inputs[1])  # type: ignore[union-attr]
    low: Any = np.uint8(0)
    high: Any = np.uint8(255)
    if clip is not None and _clips_codes(clip):
        low, high = (scalar_of(value) for value in clip.inputs[1:])
    elif metadata.NAME in dequantize.metadata_props:
        return None  # ours: all codes of 8 bits, and a Relu is an operator of its own
    zero = scalar_of(dequantize.inputs[2])
    if scale is None or low is None or high is None or zero is None:
        return None
    ends = arithmetic.dequantize([low, high], scale, zero)
    if _clamped(source, ends):
        return None
    notes: dict[str, str] = {}
    relu = source.producer()
    if relu is not None and is_op(relu, "Relu") and len(source.uses()) == 1 and not source.is_graph_output():
        ends, notes = np.maximum(ends, 0), dict(relu.metadata_props)
        assert relu.inputs[0] is not None
        source = relu.inputs[0]
    name = str(dequantize.outputs[0].name)
    bounds = [constant(graph, f"{name}.{end}", ends[index]) for index, end in enumerate(("low", "high"))]
    clamp = ir.node("Clip", [source, *bounds], metadata_props=notes)
    value = clamp.outputs[0]
    value.name = clamp.name = unused_name(graph, f"{name}.clamped")
    value.type, value.shape = ir.TensorType(ir.DataType.FLOAT), dequantize.outputs[0].shape
    graph.insert_before(dequantize, clamp)
    return clamp


def _clamped(value: ir.Value | None, ends: NDArray[np.float32]) -> bool:
    """Whether a value has these bounds already, as one that is moved or pooled has."""
    node = value.producer() if value is not None else None
    while node is not None and is_pass_through(node) and not is_op(node, "Clip"):
        node = node.inputs[0].producer() if node.inputs[0] is not None else None
    bounds = (
        [scalar_of(bound) for bound in node.inputs[1:]] if node is not None and is_op(node, "Clip") else []
    )
    return bounds == list(ends)


def quantized_value(dequantize: ir.Node) -> ir.Value | None:
    """The real value before the pair."""
    codes = dequantize.inputs[0]
    node = codes.producer() if codes is not None else None
    if node is not None and _clips_codes(node):
        assert node.inputs[0] is not None
        node = node.inputs[0].producer()
    return node.inputs[0] if node is not None and is_op(node, "QuantizeLinear") else None


def _unfold(graph: ir.Graph, dequantize: ir.Node, kept: Collection[ir.Node]) -> None:
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
