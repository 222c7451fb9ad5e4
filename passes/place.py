"""Decide which tensors of a model are quantized, and which share a scale."""

from __future__ import annotations

__all__ = ["entries", "free_values", "owners", "place"]

import numpy as np
import onnx_ir as ir

from .ends import end_layers
from .placement import Placement, factor_of, moved_input
from .plan import ActivationQuant, Grid, Plan, WeightQuant
from .values import all_values, array

INPUT_BITS = 8
FREE_BITS = 8
"""Width of what no layer multiplies: fewer bits would save no work."""


def place(
    model: ir.Model, *, weight_bits: int, activation_bits: int, grid: Grid, end_bits: int | None = None
) -> Plan:
    """A plan without numbers: what is quantized, every width the same, scales to be found.

    - Weights: of every Conv and Gemm whose weight is an initializer.
    - Activations: what goes into Conv, Gemm, MatMul, Add, Sub, Mul, GlobalAveragePool, AveragePool,
      Concat, Softmax and the functions of one number (``placement.TABLES``), and what comes out; but the
      result of a Gemm that none of these uses stays float, and so do the last three where no layer, sum or
      pool uses them in the end. A Relu or Clip that alone uses a result belongs to it: the value behind is
      the quantized one.
    - Operators that only move or select codes (``placement.PASS_THROUGH``) share the scale of their input.
      So do Mul and Div by a positive number, times that number.
    - Add and Sub of a constant are quantized like a Mul: where a layer, sum or pool uses the result in the
      end.

    Graph inputs get 8 bits, and so does what no layer multiplies. ``zero_point`` is 0 where no value can be
    negative, else None.

    Args:
        model: Normal form, BatchNormalization folded.
        weight_bits: Width of every kernel.
        activation_bits: Width of every activation that a layer multiplies, but graph inputs.
        grid: Which integers the weight codes are.
        end_bits: Width of the weights of the first and the last layers (``end_layers``), and of what only
            such layers multiply; None: the same as of the others.
    """
    found = Placement(model.graph)
    ends = frozenset[ir.Node]() if end_bits is None else end_layers(model.graph)
    end_weights = {node.inputs[1] for node in ends}

    def weight_width(value: ir.Value) -> int:
        return weight_bits if end_bits is None or value not in end_weights else end_bits

    def width(value: ir.Value) -> int:
        if value.is_graph_input():
            return INPUT_BITS
        if value not in found.multiplied:
            return FREE_BITS
        return activation_bits if end_bits is None or not found.multiplied[value] <= ends else end_bits

    weights = tuple(
        WeightQuant(name=str(value.name), bits=(weight_width(value),) * len(kernels), grid=grid)
        for value in found.weights
        if (kernels := array(value)) is not None
    )
    activations = tuple(
        ActivationQuant(
            name=str(value.name),
            bits=width(value),
            zero_point=0 if found.is_nonnegative(value) else None,
        )
        for value in found.quantized
    )
    return Plan(weights=weights, activations=activations)


def free_values(model: ir.Model) -> frozenset[str]:
    """Names of quantized values that no layer multiplies."""
    found = Placement(model.graph)
    return frozenset(str(value.name) for value in found.quantized if value not in found.multiplied)


def owners(model: ir.Model, plan: Plan) -> dict[str, str]:
    """The plan entry that owns the scale of each quantized value, in graph order.

    Owned are the values of the plan, and what operators that only move or select codes make of them.

    Returns:
        By value name: the name of an entry of ``plan.activations``.
    """
    return {name: entry.name for name, entry in entries(model, plan).items()}


def entries(model: ir.Model, plan: Plan) -> dict[str, ActivationQuant]:
    """How each quantized value is quantized, in graph order.

    Returns:
        By value name: the entry of the ``owners``, with the scale that it has there: constants that are
        multiplied in between are in it.
    """
    found = Placement(model.graph)
    planned = {entry.name: entry for entry in plan.activations}
    result: dict[str, ActivationQuant] = {}
    for value in all_values(model.graph):
        owner = found.owner(value)
        if owner is None or owner.name not in planned:
            continue
        entry, node = planned[str(owner.name)], value.producer()
        if owner is not value and node is not None:
            source, factor = moved_input(node), factor_of(node)
            assert source is not None  # it is how the owner was found
            entry = result[str(source.name)]
            if factor is not None and entry.scale is not None:
                entry = entry.model_copy(update={"scale": float(np.float32(entry.scale) * factor)})
        result[str(value.name)] = entry
    return result
