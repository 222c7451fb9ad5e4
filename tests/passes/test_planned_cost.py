"""The layers of a model at the widths of a plan."""

from __future__ import annotations

import numpy as np
from graphs import residual_cnn

from mpqtool.passes import cost
from mpqtool.passes.place import place
from mpqtool.passes.plan import Grid
from mpqtool.passes.planned_cost import layer_tensors, layers_at


def test_a_layer_in_float_still_stores_codes(rng: np.random.Generator) -> None:
    model = residual_cnn(rng)
    plan = place(model, weight_bits=4, activation_bits=8, grid=Grid.FULL)
    at = layers_at(model, plan)
    weight, value = layer_tensors(model, plan)[1]
    whole, without = at(plan), at(plan.without({value: "noise"}))
    assert cost.weights_owed(whole) == cost.weights_owed(without)
    (row,) = [row for row in without if row.name == weight]
    assert (set(row.weight_bits), row.activation_bits) == ({4}, cost.FLOAT_BITS)
    assert cost.weights_owed(at(plan.without({weight: "noise"}))) > cost.weights_owed(whole)


def test_layers_and_what_they_multiply(rng: np.random.Generator) -> None:
    model = residual_cnn(rng)
    plan = place(model, weight_bits=4, activation_bits=8, grid=Grid.FULL)
    pairs = layer_tensors(model, plan)
    assert [weight for weight, _ in pairs] == [entry.name for entry in plan.weights]
    assert {value for _, value in pairs} <= {entry.name for entry in plan.activations}
