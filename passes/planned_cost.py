"""The layers of a model at the widths of a plan, as ``inspect`` tells them of its files."""

from __future__ import annotations

__all__ = ["layer_tensors", "layers_at"]

import dataclasses
from collections.abc import Callable

import onnx_ir as ir
from onnx_ir.passes.common import ShapeInferencePass

from . import cost
from .place import owners
from .plan import Plan
from .values import all_values


def layers_at(model: ir.Model, names: Plan) -> Callable[[Plan], list[cost.Layer]]:
    """A function from plans to layers: tensors that a plan does not name are float.

    Args:
        model: Normal form, BatchNormalization folded.
        names: Names the tensors that plans may name; its widths and scales do not matter.
    """
    rows, owner, sizes = cost.layers(model), owners(model, names), _sizes(model)

    def at(plan: Plan) -> list[cost.Layer]:
        weights = {entry.name: entry.bits for entry in plan.weights}
        values = {entry.name: entry.bits for entry in plan.activations}
        found = []
        for row in rows:
            source = owner.get(row.input, "")
            found.append(
                dataclasses.replace(
                    row,
                    input=source or row.input,
                    inputs=sizes[source] if source else row.inputs,
                    weight_bits=weights.get(row.name, row.weight_bits),
                    activation_bits=values.get(source, row.activation_bits),
                )
            )
        return found

    return at


def layer_tensors(model: ir.Model, names: Plan) -> list[tuple[str, ...]]:
    """For each layer, what must be codes for it to compute in codes: its weight, and what that multiplies.

    Args:
        model: Normal form, BatchNormalization folded.
        names: Names the tensors that are quantized where they can be.
    """
    owner = owners(model, names)
    weights = {entry.name for entry in names.weights}
    pairs = [(row.name, owner.get(row.input, "")) for row in cost.layers(model)]
    return [(weight, value) for weight, value in pairs if weight in weights and value]


def _sizes(model: ir.Model) -> dict[str, int | None]:
    """Elements of one sample, by value name."""
    inferred = ShapeInferencePass(check_type=False, strict_mode=False)(model.clone()).model
    return {str(value.name): cost.elements(value) for value in all_values(inferred.graph)}
