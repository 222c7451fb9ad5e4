"""Read a QDQ graph back: the float graph with the values it computes with, and the plan."""

from __future__ import annotations

__all__ = ["extract"]

import contextlib
from collections.abc import Iterator

import numpy as np
import onnx_ir as ir
import pydantic
from numpy.typing import NDArray
from onnx_ir.passes import common

from .. import arithmetic, metadata
from ..constants import scalar_of
from ..errors import PlanError
from ..lower.match import dequantized, dequantized_weight, weight_fault
from ..place import place
from ..plan import ActivationQuant, Grid, Plan, WeightQuant, first_fault
from ..values import add_initializer, array, is_op

_LEFT_FLOAT = pydantic.TypeAdapter(dict[str, str])


def extract(qdq: ir.Model) -> tuple[ir.Model, Plan]:
    """Undo ``InsertQdqPass``: ``quantize(*extract(qdq))`` gives the codes of ``qdq`` again.

    Weights and biases of the float model are the dequantized ones. Notes in the file give widths and
    grids; a file without them is read as int8 weights, scaled along axis 0 or as a whole, and uint8
    activations.

    Args:
        qdq: Left as it is.

    Raises:
        PlanError: A tensor that has to be quantized, and is not noted as left in float, is not, or not in one
            of these ways.
    """
    model = qdq.clone()
    common.RemoveUnusedNodesPass()(model)
    weights: dict[str, WeightQuant] = {}
    activations: dict[str, ActivationQuant] = {}
    for node in list(model.graph):
        if is_op(node, "Conv", "Gemm"):
            _unfold_offset(model.graph, node)
    for node in list(model.graph):
        if node.op_identifier() != ("", "DequantizeLinear", ""):
            continue
        if array(node.inputs[0]) is not None:
            _restore_constant(model.graph, node, weights)
        else:
            _remove_pair(model.graph, node, activations)
    common.RemoveUnusedNodesPass()(model)
    with _readable("the tensors left in float"):
        left = _LEFT_FLOAT.validate_json(model.metadata_props.pop(metadata.LEFT_FLOAT, "{}"))
    expected = place(model, weight_bits=8, activation_bits=8, grid=Grid.SIGNED).without(left)
    for kind, names, found in (
        ("weight", [w.name for w in expected.weights], weights.keys()),
        ("activation", [a.name for a in expected.activations], activations.keys()),
    ):
        for name in names:
            if name not in found:
                raise PlanError(
                    f"Cannot read the QDQ file: {kind} {name!r} is not quantized, or not to int8 weights "
                    "and uint8 activations. Quantize it with `mpqtool quantize`."
                )
    with _readable("the plan in it"):
        plan = Plan(
            weights=tuple(weights[w.name] for w in expected.weights),
            activations=tuple(activations[a.name] for a in expected.activations),
            left_float=left,
        )
    return model, plan


def _unfold_offset(graph: ir.Graph, node: ir.Node) -> None:
    """Take the offset of the input out of the bias of a Conv or Gemm again."""
    x, weight = dequantized(node.inputs[0]), dequantized_weight(node.inputs[1])
    dequantize = node.inputs[2].producer() if len(node.inputs) > 2 and node.inputs[2] is not None else None
    codes = array(dequantize.inputs[0]) if dequantize is not None else None
    if x is None or weight is None or dequantize is None or codes is None or not x.offset:
        return
    real, name = dequantize.outputs[0], str(dequantize.outputs[0].name)
    fold = (x.scale, weight.scale, x.offset, weight.codes)
    real.name = None
    if metadata.OFFSET in dequantize.metadata_props:
        node.resize_inputs(2)  # there was none
    else:
        node.replace_input_with(2, add_initializer(graph, name, arithmetic.unfold_offset(codes, *fold)))
    graph.remove(dequantize, safe=True)


def _restore_constant(graph: ir.Graph, node: ir.Node, weights: dict[str, WeightQuant]) -> None:
    """Make the dequantized constant an initializer, under the name of the value."""
    real, name = node.outputs[0], str(node.outputs[0].name)
    weight = dequantized_weight(real)
    fault = weight_fault(node) if weight is None else None
    if weight is not None and weight.zero_point is not None:
        weight, fault = None, "has uint8 codes with a zero point, allowed int8"
    if fault is not None and any(is_op(use.node, "Conv", "Gemm") and use.idx == 1 for use in real.uses()):
        raise PlanError(
            f"Cannot read the QDQ file: weight {name!r} {fault}. "
            "Quantize weights symmetrically, kernel by kernel."
        )
    if weight is not None:
        shift = int(node.metadata_props.get(metadata.SHIFT, "0"))
        with _readable(name):
            weights[name] = WeightQuant(
                name=name,
                bits=weight.bits,
                grid=weight.grid,
                scale=tuple(float(s) * 2**shift for s in weight.scale),
                shift=shift,
            )
    numbers = _dequantized(node, name)
    real.name = None
    new = add_initializer(graph, name, numbers)
    real.replace_all_uses_with(new)
    graph.remove(node, safe=True)


def _dequantized(node: ir.Node, name: str) -> NDArray[np.float32]:
    """What a DequantizeLinear of constants makes."""
    codes, scale = array(node.inputs[0]), array(node.inputs[1])
    zero = array(node.inputs[2]) if len(node.inputs) > 2 else None
    assert codes is not None  # the caller has looked
    axis = node.attributes.get_int("axis", 1) if codes.ndim > 1 else 0
    lengths = (1, codes.shape[axis]) if -codes.ndim <= axis < codes.ndim else (1,) if codes.ndim == 0 else ()
    if scale is None or scale.ndim > 1 or scale.size not in lengths:
        shape = None if scale is None else list(scale.shape)
        raise PlanError(
            f"Cannot read the QDQ file: {name!r}, of shape {list(codes.shape)}, has scales of shape {shape} "
            f"along axis {axis}, allowed one scale or one per entry of the axis. Quantize it so."
        )
    return arithmetic.dequantize(codes, scale, 0 if zero is None else zero, axis=axis)


@contextlib.contextmanager
def _readable(name: str) -> Iterator[None]:
    """Say which tensor has numbers that no plan can hold."""
    try:
        yield
    except pydantic.ValidationError as error:
        raise PlanError(
            f"Cannot read the QDQ file: {name!r}: {first_fault(error)}. Quantize it with `mpqtool quantize`."
        ) from None


def _remove_pair(graph: ir.Graph, node: ir.Node, activations: dict[str, ActivationQuant]) -> None:
    """Let the users of the dequantized value use the value itself."""
    nodes, codes = [node], node.inputs[0]
    assert codes is not None
    producer = codes.producer()
    if producer is not None and producer.op_type == "Clip":
        nodes.append(producer)
        producer = producer.inputs[0].producer() if producer.inputs[0] is not None else None
    scale = scalar_of(node.inputs[1])
    zero = scalar_of(node.inputs[2]) if len(node.inputs) > 2 else np.uint8(0)
    if producer is None or producer.op_type != "QuantizeLinear" or scale is None or zero is None:
        raise PlanError(
            f"Cannot read the QDQ file: {node.outputs[0].name!r} is not the end of QuantizeLinear, "
            "DequantizeLinear with one scale. Quantize activations tensor by tensor."
        )
    if zero.dtype != np.uint8:
        raise PlanError(
            f"Cannot read the QDQ file: {node.outputs[0].name!r} has {zero.dtype} codes, allowed uint8. "
            "Quantize activations to uint8."
        )
    shift = producer.inputs[0].producer() if producer.inputs[0] is not None else None
    nodes.append(producer)
    if shift is not None and shift.op_type == "Sub" and metadata.OFFSET in shift.metadata_props:
        nodes.append(shift)
    source, real = nodes[-1].inputs[0], node.outputs[0]
    assert source is not None
    for use in tuple(real.uses()):
        if use.node.op_type == "Add" and metadata.OFFSET in use.node.metadata_props:
            use.node.outputs[0].replace_all_uses_with(real)
            graph.remove(use.node, safe=True)
    held, keeps = str(source.name), real.is_graph_output()
    name = str(real.name) if keeps else held
    real.replace_all_uses_with(source, replace_graph_outputs=True)
    real.name = None
    for gone in nodes:
        if not any(output.uses() for output in gone.outputs):
            graph.remove(gone, safe=True)
    if keeps and not source.is_graph_input():
        source.name = name
    owner = node.metadata_props.get(metadata.NAME, name)
    if owner == name:
        with _readable(name):
            activations[name] = ActivationQuant(
                name=name,
                bits=int(node.metadata_props.get(metadata.BITS, "8")),
                scale=float(scale),
                zero_point=int(zero),
                offset=float(node.metadata_props.get(metadata.OFFSET, "0")),
                padding="zero" if node.metadata_props.get(metadata.PADDING) == "zero" else "offset",
            )
