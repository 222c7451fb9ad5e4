"""What a network of given widths costs, told as ``result.json`` tells it: size in bytes, and BitOPs."""

from __future__ import annotations

__all__ = ["make_prices"]

import dataclasses
import math
from collections.abc import Mapping

import onnx_ir as ir

from mpqtool.passes import cost
from mpqtool.passes.place import owners
from mpqtool.passes.plan import Plan

from .methods.budgets import Prices, Widths


def make_prices(model: ir.Model, plan: Plan, sizes: Mapping[str, tuple[int, ...]]) -> Prices:
    """A function from widths to ``size``, the ``weights_owed`` of ``result.json``, and ``bitops``.

    Kernels of 0 bits owe nothing; what the integer file drops with them is not foreseen here.

    Args:
        model: Normal form, BatchNormalization folded.
        plan: Names its tensors; widths and scales do not matter.
        sizes: Shapes of inputs, where the model leaves more open than the batch.
    """
    rows = cost.layers(cost.sized(model, sizes) if sizes else model)
    owner = owners(model, plan)

    def prices(widths: Widths) -> dict[str, float]:
        used = [
            dataclasses.replace(
                row,
                weight_bits=widths.get(row.name, row.weight_bits),
                activation_bits=widths.get(owner.get(row.input, ""), (row.activation_bits,))[0],
            )
            for row in rows
        ]
        bitops = cost.bitops(used)
        return {"size": cost.weights_owed(used), "bitops": math.inf if bitops is None else bitops}

    return prices
