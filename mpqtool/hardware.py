"""What each layer weighs in the hardware term of a search for bit-widths."""

from __future__ import annotations

__all__ = ["layer_costs"]

import collections
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from mpqtool.passes import cost, pipelines
from mpqtool.passes.place import owners, place
from mpqtool.passes.plan import Grid, Plan
from mpqtool.passes.quantize import raise_dead_scales
from mpqtool.passes.values import array
from mpqtool.runtime.layer_times import layer_times

from .coverage import open_sizes
from .errors import ModelError, OptionError, RuntimeFault
from .method_options import HARDWARE
from .methods.width_variables import LayerCost


def layer_costs(
    model: ir.Model,
    plan: Plan,
    kind: str,
    *,
    learned: Collection[str],
    inputs: Mapping[str, NDArray[Any]],
) -> list[LayerCost]:
    """Share out the hardware term to the layers, one entry for each node that uses a weight.

    As shares add up to 1, uniform widths make the term ``B_w * B_a``, that of AdaQAT (section III-B): the
    factor in front of it means the same for every network and every kind.

    - ``bitops``: by multiply-accumulates, ``MAC_l / sum MAC``, so that the term is the mean BitOPs of one.
    - ``size``: by weights. Nodes that use the same weight share what it counts.
    - ``latency``: by the time that ONNX Runtime takes for the layer in integers of 8 bits, at batch 1 on this
      machine: it differs a little from call to call. ONNX Runtime computes fewer bits in 8 bits too,
      so there is nothing to measure below: the term assumes ``time * B_w * B_a / 64``, that of hardware
      whose time is proportional to both widths.

    Args:
        model: Normal form, BatchNormalization folded.
        plan: Names its tensors; widths and scales do not matter.
        kind: One of ``HARDWARE``.
        learned: Names of the weights whose widths are searched for. Others are not counted.
        inputs: Samples, ``(samples, ...)`` by graph input: their sizes are what the model leaves open.

    Raises:
        OptionError: There is no such kind.
        ModelError: The MACs of a layer are not known.
        RuntimeFault: The time of a layer cannot be measured.
    """
    if kind not in HARDWARE:
        raise OptionError(f"There is no hardware={kind!r}; allowed: {', '.join(HARDWARE)}")
    sizes = open_sizes(model, inputs)
    rows = cost.layers(cost.sized(model, sizes) if sizes else model)
    rows = [row for row in rows if row.name in learned]
    if kind == "latency":
        amounts = _seconds(rows, layer_times(_in_8_bits(model), {n: x[:1] for n, x in inputs.items()}))
    else:
        amounts = _macs(rows) if kind == "bitops" else _weights(rows)
    total, owner = sum(amounts), owners(model, plan)
    return [
        LayerCost(row.name, owner.get(row.input), amount / total)
        for row, amount in zip(rows, amounts, strict=True)
    ]


def _macs(rows: Sequence[cost.Layer]) -> list[float]:
    found = []
    for row in rows:
        if row.macs is None:
            raise ModelError(
                f"Cannot count the multiply-accumulates of the layer of {row.name!r}: the size of its result "
                "is not known. Use --hardware size or --hardware latency."
            )
        found.append(float(row.macs))
    return found


def _weights(rows: Sequence[cost.Layer]) -> list[float]:
    uses = collections.Counter(row.name for row in rows)
    return [row.weights / uses[row.name] for row in rows]


def _seconds(rows: Sequence[cost.Layer], times: Mapping[str, Sequence[float]]) -> list[float]:
    uses = collections.Counter(row.name for row in rows)
    for name, count in uses.items():
        if len(times.get(name, ())) != count:
            raise RuntimeFault(
                f"Cannot tell how long the layers of {name!r} take: {len(times.get(name, ()))} of {count} "
                "compute in integers. Use --hardware bitops."
            )
    left = {name: iter(times[name]) for name in uses}
    return [next(left[row.name]) for row in rows]


def _in_8_bits(model: ir.Model) -> ir.Model:
    """The integer form at 8 bits, with scales made up: no time depends on them."""
    plan = place(model, weight_bits=8, activation_bits=8, grid=Grid.SIGNED)
    weights = [
        entry.model_copy(update={"scale": (_step(model.graph.initializers[entry.name]),) * len(entry.bits)})
        for entry in plan.weights
    ]
    activations = [
        entry.model_copy(update={"scale": 1 / 16, "zero_point": 128 if entry.zero_point is None else 0})
        for entry in plan.activations
    ]
    plan = raise_dead_scales(model, plan.replaced(weights=weights, activations=activations))
    # Of the two forms that a layer can have at 8 bits, the one that it has at fewer: weights in int8.
    return pipelines.lower(pipelines.quantize(model, plan), vnni=True)


def _step(weight: ir.Value) -> float:
    numbers = array(weight)
    assert numbers is not None  # place() only names initializers
    return float(np.abs(numbers).max()) / 127 or 1.0
