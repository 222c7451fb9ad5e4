"""Write a plan into a float graph as QuantizeLinear / DequantizeLinear pairs."""

from __future__ import annotations

__all__ = ["InsertQdqPass"]

import json
import logging
from collections.abc import Iterable

import numpy as np
import onnx_ir as ir

from .. import arithmetic, metadata
from ..constants import constant
from ..errors import ModelError
from ..place import entries
from ..plan import ActivationQuant, Plan, WeightQuant
from ..values import all_values, array, names, take_name, unused_name
from .offsets import is_carried, pads_with_zero

logger = logging.getLogger(__name__)


class InsertQdqPass(ir.passes.InPlacePass):
    """Put every tensor of the plan on its grid.

    An activation ``v`` becomes ``v -> QuantizeLinear -> DequantizeLinear -> users of v``, with a
    ``Clip`` of the codes to ``0 ... 2**bits - 1`` between the two below 8 bits. The outputs of operators
    that only move codes (MaxPool, Reshape, ...) get the pair of the value they move, so that every
    quantized operator stands between a DequantizeLinear and a QuantizeLinear. The codes are called
    ``v.codes``; a graph output keeps its name, and is the dequantized value.

    A weight becomes int8 codes with a DequantizeLinear along axis 0; the bias of the operator becomes
    int32 codes of scale ``s_x * s_w``. Both keep their names on the dequantized value.

    An offset ``r`` is taken off before the pair, ``v -> Sub(r) -> QuantizeLinear``, and nowhere added again:
    the bias of every Conv and Gemm behind is ``b + r * s_w * sum(w)``, and 0, which is what they pad with, is
    the offset. Only for a Conv that pads with real zeros, ``Add(r)`` stands in front of it.

    Left alone: tensors that the plan does not name, and a graph that holds the plan already. Which tensors
    are to stay float, and why, is noted on the model.

    Args:
        plan: Complete: every scale and zero point is there.
    """

    def __init__(self, plan: Plan) -> None:
        super().__init__()
        self.plan = plan

    def requires(self, model: ir.Model) -> None:
        if not self.plan.is_complete:
            lacking = [a.name for a in self.plan.activations if a.scale is None or a.zero_point is None]
            lacking += [w.name for w in self.plan.weights if w.scale is None]
            raise ir.passes.PreconditionError(
                f"InsertQdqPass needs a scale and a zero point for every tensor, {lacking[0]!r} has none; "
                "calibrate the plan first."
            )

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        graph = model.graph
        if any(metadata.NAME in node.metadata_props for node in graph):
            return ir.passes.PassResult(model, modified=False)
        found = entries(model, self.plan)
        _check_names(graph, found)
        values = {value.name: value for value in all_values(graph)}
        if self.plan.left_float:
            model.metadata_props[metadata.LEFT_FLOAT] = json.dumps(self.plan.left_float)
        for planned in self.plan.weights:
            _quantize_weight(graph, planned, found)
        for name, activation in found.items():
            _quantize_activation(graph, values[name], activation)
        changed = len(self.plan.weights) + len(found)
        if changed:
            logger.info("Quantized %d weights and %d activations", len(self.plan.weights), len(found))
        return ir.passes.PassResult(model, modified=bool(changed))


def _check_names(graph: ir.Graph, quantized: Iterable[str]) -> None:
    """Codes are found by their names, which nothing else may have."""
    taken = names(graph)
    for name in quantized:
        if metadata.codes_name(name) in taken:
            raise ModelError(
                f"Cannot quantize {name!r}: the model has a value called {metadata.codes_name(name)!r} "
                "already, allowed any other name. Rename it."
            )


def _quantize_activation(graph: ir.Graph, value: ir.Value, planned: ActivationQuant) -> None:
    """Insert the pair behind one value."""
    assert planned.scale is not None
    assert planned.zero_point is not None
    name = value.name
    assert name
    scale = constant(graph, f"{planned.name}.scale", np.float32(planned.scale))
    zero = constant(graph, f"{planned.name}.zero_point", np.uint8(planned.zero_point))
    notes = {metadata.NAME: planned.name, metadata.BITS: str(planned.bits)}
    if planned.offset:
        notes[metadata.OFFSET] = repr(planned.offset)
    if planned.padding != "offset":
        notes[metadata.PADDING] = planned.padding
    uses = [(use.node, use.idx) for use in value.uses()]

    new, source = [], value
    if planned.offset and name == planned.name and not is_carried(value):  # else it is off already
        new.append(_offset_node(graph, "Sub", value, planned))
        source = new[-1].outputs[0]
    new.append(ir.node("QuantizeLinear", [source, scale, zero], metadata_props=dict(notes)))
    codes = new[-1].outputs[0]
    if planned.bits < 8:
        codes.name = unused_name(graph, f"{name}.wide")
        codes.type, codes.shape = ir.TensorType(ir.DataType.UINT8), value.shape
        low = constant(graph, "low", np.uint8(0))
        high = constant(graph, f"high{planned.bits}", np.uint8(2**planned.bits - 1))
        new.append(ir.node("Clip", [codes, low, high]))
        codes = new[-1].outputs[0]
    codes.name, codes.type, codes.shape = (
        metadata.codes_name(name),
        ir.TensorType(ir.DataType.UINT8),
        value.shape,
    )
    take_name(graph, codes.name)
    new.append(ir.node("DequantizeLinear", [codes, scale, zero], metadata_props=dict(notes)))
    real = new[-1].outputs[0]
    real.name, real.type, real.shape = unused_name(graph, f"{name}.dq"), value.type, value.shape
    for user, index in uses:
        user.replace_input_with(index, real)
    bordered = [user for user, index in uses if index == 0 and pads_with_zero(user, planned)]
    if bordered:
        new.append(_offset_node(graph, "Add", real, planned))
        for user in bordered:
            user.replace_input_with(0, new[-1].outputs[0])
    for node in new:
        node.name = node.outputs[0].name
    if value.is_graph_output() and not value.is_graph_input():
        value.name, real.name = unused_name(graph, f"{name}.float"), name
        for index, output in enumerate(graph.outputs):
            if output is value:
                graph.outputs[index] = real
    producer = value.producer()
    if producer is None:
        first = next(iter(graph), None)
        graph.extend(new) if first is None else graph.insert_before(first, new)
    else:
        graph.insert_after(producer, new)


def _offset_node(graph: ir.Graph, op: str, value: ir.Value, planned: ActivationQuant) -> ir.Node:
    offset = constant(graph, f"{planned.name}.offset", np.float32(planned.offset))
    node = ir.node(op, [value, offset], metadata_props={metadata.OFFSET: "", metadata.EXACT: "offset"})
    made = node.outputs[0]
    made.name, made.type, made.shape = (
        unused_name(graph, f"{value.name}.{op.lower()}"),
        value.type,
        value.shape,
    )
    return node


def _quantize_weight(graph: ir.Graph, planned: WeightQuant, found: dict[str, ActivationQuant]) -> None:
    """Replace one weight, and the biases of the operators that use it, with codes."""
    weight = graph.initializers[planned.name]
    numbers = array(weight)
    assert numbers is not None
    assert planned.scale is not None  # requires() has looked
    codes, scale = arithmetic.quantize_shifted(
        numbers, planned.scale, planned.bits, planned.grid, planned.shift
    )
    notes = {
        metadata.NAME: planned.name,
        metadata.BITS: metadata.digits(planned.bits),
        metadata.GRID: planned.grid.value,
    }
    if planned.shift:
        notes[metadata.SHIFT] = str(planned.shift)
    users = [use.node for use in weight.uses() if use.idx == 1]
    for node in users:
        source = node.inputs[0]
        activation = found.get(str(source.name)) if source is not None else None
        if activation is not None:
            _quantize_bias(graph, node, activation, scale, codes)
    _replace_initializer(graph, weight, codes.astype(np.int8), scale, np.zeros(len(scale), np.int8), notes)


def _quantize_bias(
    graph: ir.Graph, node: ir.Node, x: ActivationQuant, w_scale: np.ndarray, w_codes: np.ndarray
) -> None:
    """Make the bias int32 codes, with the offset of the input in them; one that is computed stays."""
    bias = node.inputs[2] if len(node.inputs) > 2 else None
    folded = x.offset and not pads_with_zero(node, x)
    notes = {metadata.OFFSET: ""} if bias is None else {}
    if bias is None and folded:
        node.resize_inputs(3)
        bias = constant(graph, f"{node.outputs[0].name}.bias", np.zeros(len(w_scale), np.float32))
        node.replace_input_with(2, bias)
    numbers = array(bias)
    if bias is None or numbers is None:
        return
    if len(bias.uses()) > 1:  # its scale belongs to this operator alone
        bias = constant(graph, f"{bias.name}.{node.outputs[0].name}", numbers)
        node.replace_input_with(2, bias)
    x_scale = np.float32(x.scale)
    codes = arithmetic.quantize_bias(numbers, x_scale, w_scale)
    if folded:
        codes = arithmetic.fold_offset(numbers, x_scale, w_scale, x.offset, w_codes)
    unit = x_scale * w_scale
    _replace_initializer(graph, bias, codes, unit, np.zeros(len(unit), np.int32), notes)


def _replace_initializer(
    graph: ir.Graph,
    value: ir.Value,
    codes: np.ndarray,
    scale: np.ndarray,
    zero: np.ndarray,
    notes: dict[str, str],
) -> None:
    """Make an initializer the output of a DequantizeLinear, under its own name."""
    name = value.name
    assert name
    del graph.initializers[name]
    value.name = f"{name}.replaced"  # no longer in the graph; the name goes to the dequantized value
    inputs = [
        constant(graph, metadata.codes_name(name), codes),
        constant(graph, f"{name}.scale", scale.astype(np.float32)),
        constant(graph, f"{name}.zero_point", zero),
    ]
    node = ir.node("DequantizeLinear", inputs, {"axis": 0}, name=f"{name}.dq", metadata_props=notes)
    real = node.outputs[0]
    real.name, real.type, real.shape = name, ir.TensorType(ir.DataType.FLOAT), value.shape
    value.replace_all_uses_with(real)
    first = next(iter(graph))
    graph.insert_before(first, node)
