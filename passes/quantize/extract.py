"""Read a QDQ graph back: the float graph with the values it computes with, and the plan."""

from __future__ import annotations

__all__ = ["extract"]

import numpy as np
import onnx_ir as ir
from onnx_ir.passes import common

from .. import arithmetic, metadata
from ..constants import scalar_of
from ..errors import PlanError
from ..place import place
from ..plan import ActivationQuant, Grid, Plan, WeightQuant
from ..values import add_initializer, array


def extract(qdq: ir.Model) -> tuple[ir.Model, Plan]:
    """Undo ``InsertQdqPass``: ``quantize(*extract(qdq))`` gives the codes of ``qdq`` again.

    Weights and biases of the float model are the dequantized ones. Notes in the file give widths and
    grids; a file without them is read as int8 weights, scaled along axis 0 or as a whole, and uint8
    activations.

    Args:
        qdq: Left as it is.

    Raises:
        PlanError: A tensor that has to be quantized is not, or not in one of these ways.
    """
    model = qdq.clone()
    common.RemoveUnusedNodesPass()(model)
    weights: dict[str, WeightQuant] = {}
    activations: dict[str, ActivationQuant] = {}
    for node in list(model.graph):
        if node.op_identifier() != ("", "DequantizeLinear", ""):
            continue
        if array(node.inputs[0]) is not None:
            _restore_constant(model.graph, node, weights)
        else:
            _remove_pair(model.graph, node, activations)
    common.RemoveUnusedNodesPass()(model)
    expected = place(model, weight_bits=8, activation_bits=8, grid=Grid.SIGNED)
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
    return model, Plan(
        weights=tuple(weights[w.name] for w in expected.weights),
        activations=tuple(activations[a.name] for a in expected.activations),
    )


def _restore_constant(graph: ir.Graph, node: ir.Node, weights: dict[str, WeightQuant]) -> None:
    """Make the dequantized weight or bias an initializer, under the name of the value."""
    codes, scale = array(node.inputs[0]), array(node.inputs[1])
    zero = array(node.inputs[2]) if len(node.inputs) > 2 else None
    real, name = node.outputs[0], str(node.outputs[0].name)
    if codes is None or scale is None or (zero is not None and np.any(zero)):
        raise PlanError(
            f"Cannot read the QDQ file: {name!r} has a zero point other than 0. "
            "Quantize weights symmetrically."
        )
    per_kernel = np.broadcast_to(scale.astype(np.float32).reshape(-1), (len(codes),))
    if codes.dtype == np.int32:
        numbers = arithmetic.dequantize(codes, per_kernel)
    else:
        shape = (-1, *[1] * (codes.ndim - 1))
        numbers = arithmetic.dequantize(codes, per_kernel.reshape(shape))
        noted = node.metadata_props.get(metadata.BITS, "8" * len(codes))
        weights[name] = WeightQuant(
            name=name,
            bits=metadata.from_digits(noted),
            grid=Grid(node.metadata_props.get(metadata.GRID, Grid.SIGNED.value)),
            scale=tuple(float(s) for s in per_kernel),
        )
    real.name = None
    new = add_initializer(graph, name, numbers)
    real.replace_all_uses_with(new)
    graph.remove(node, safe=True)


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
    source, real = producer.inputs[0], node.outputs[0]
    assert source is not None
    held, keeps = str(source.name), real.is_graph_output()
    name = str(real.name) if keeps else held
    real.replace_all_uses_with(source, replace_graph_outputs=True)
    real.name = None
    for gone in (*nodes, producer):
        if not any(output.uses() for output in gone.outputs):
            graph.remove(gone, safe=True)
    if keeps and not source.is_graph_input():
        source.name = name
    owner = node.metadata_props.get(metadata.NAME, name)
    if owner == name:
        activations[name] = ActivationQuant(
            name=name,
            bits=int(node.metadata_props.get(metadata.BITS, "8")),
            scale=float(scale),
            zero_point=int(zero),
            tie=node.metadata_props.get(metadata.TIE),
        )
