"""What a network of given widths costs, told as ``result.json`` tells it: size in bytes, and BitOPs."""

from __future__ import annotations

__all__ = ["make_plan_prices", "make_prices", "uncheckable"]

import dataclasses
import math
from collections.abc import Callable, Mapping

import onnx_ir as ir

from mpqtool.passes import cost
from mpqtool.passes.place import owners
from mpqtool.passes.plan import Plan
from mpqtool.passes.planned_cost import layers_at

from .methods.budgets import Prices, Widths


def make_prices(model: ir.Model, plan: Plan, sizes: Mapping[str, tuple[int, ...]]) -> Prices:
    """A function from widths to ``size``, the ``weights_owed`` of ``result.json``, and ``bitops``.

    Kernels of 0 bits owe nothing; what the integer file drops with them is not foreseen here.

    Args:
        model: Normal form, BatchNormalization folded.
        plan: Names its tensors; widths and scales do not matter.
        sizes: Shapes of inputs, where the model leaves more open than the batch.
    """
    layers = cost.layers(cost.sized(model, sizes) if sizes else model)
    owner = owners(model, plan)

    def prices(widths: Widths) -> dict[str, float]:
        rows = [
            dataclasses.replace(
                row,
                weight_bits=widths.get(row.name, row.weight_bits),
                activation_bits=widths.get(owner.get(row.input, ""), (row.activation_bits,))[0],
            )
            for row in layers
        ]
        return {"size": cost.weights_owed(rows), "bitops": _or_infinite(cost.bitops(rows))}

    return prices


def make_plan_prices(
    model: ir.Model, plan: Plan, sizes: Mapping[str, tuple[int, ...]]
) -> Callable[[Plan], dict[str, float]]:
    """A function from plans to ``weights`` and ``activations`` in effective bits, ``size`` and ``bitops``.

    All are those of ``result.json``: of all layers, what is left in float with 32 bits.

    Args:
        model: Normal form, BatchNormalization folded.
        plan: Names all tensors that can be quantized.
        sizes: Shapes of inputs, where the model leaves more open than the batch.
    """
    at = layers_at(cost.sized(model, sizes) if sizes else model, plan)

    def prices(of: Plan) -> dict[str, float]:
        rows = at(of)
        return {
            "weights": _or_infinite(cost.weights_eff(rows)),
            "activations": _or_infinite(cost.activations_eff(rows)),
            "size": cost.weights_owed(rows),
            "bitops": _or_infinite(cost.bitops(rows)),
        }

    return prices


def uncheckable(name: str, limit: float) -> str:
    """Say that a limit cannot be checked."""
    return (
        f"A limit of {limit:g} for {name} cannot be checked: the size of a value is not known, so what its "
        "layer costs is not. Give target_size, or export the model with fixed sizes."
    )


def _or_infinite(number: float | None) -> float:
    return math.inf if number is None else number
