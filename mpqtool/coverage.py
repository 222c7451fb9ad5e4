"""Which part of a network becomes integer and which stays float, in numbers and in words."""

from __future__ import annotations

__all__ = ["LoweredLayers", "float_layers", "lowered_layers", "open_sizes", "uncounted_tables"]

import collections
import dataclasses
import os
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

import onnx_ir as ir
from numpy.typing import NDArray

from mpqtool.passes import cost, metadata
from mpqtool.passes.load import load_model
from mpqtool.passes.values import array, is_op
from mpqtool.runtime import integer_layers

Share = float | None  # named, because a key of the JSON is "float", which hides the type inside its class
_ENOUGH = 0.5
"""The share of the MACs below which a file is hardly an integer file."""


def open_sizes(model: ir.Model, inputs: Mapping[str, NDArray[Any]]) -> dict[str, tuple[int, ...]]:
    """Shapes of the samples, if the model leaves a size open beside the batch; else nothing."""
    fixed = all(
        value.shape is not None and all(isinstance(size, int) for size in value.shape[1:])
        for value in model.graph.inputs
    )
    return {} if fixed else {name: samples.shape for name, samples in inputs.items()}


def float_layers(rows: Sequence[cost.Layer], *, quantized: Collection[str], placed: Collection[str]) -> str:
    """Say which layers stay float, and how much of the network that is; nothing if none does.

    Args:
        rows: All layers.
        quantized: Names of the weights that are quantized.
        placed: Names of those that could be.
    """
    left = [row for row in rows if row.name not in quantized]
    if not left:
        return ""
    why = "no integer form yet" if any(row.name not in placed for row in left) else "not in the plan"
    macs, all_macs = cost.macs(left), cost.macs(rows)
    weights = _share(_weights(left), _weights(rows))
    share = weights if macs is None or not all_macs else f"{macs / all_macs:.1%} of the MACs and {weights}"
    return f"{_counted(left)} with {share} stay float: {why}"


def _share(part: int, whole: int) -> str:
    return f"{part / max(whole, 1):.1%} of the weights"


def _weights(rows: Iterable[cost.Layer]) -> int:
    return sum({row.name: row.weights for row in rows}.values())


def _counted(rows: Iterable[cost.Layer]) -> str:
    """``12 MatMul and 1 LSTM layers``."""
    counts = collections.Counter(row.op for row in rows)
    text = " and ".join(f"{count} {op}" for op, count in counts.items())
    return f"{text} layer{'' if counts.total() == 1 else 's'}"


def uncounted_tables(model: ir.Model) -> str:
    """Name tables that are looked up, which no layer counts; nothing if there are none."""
    tables = {
        str(node.inputs[0].name): numbers.size
        for node in model.graph
        if is_op(node, "Gather") and node.inputs[0] is not None
        if (numbers := array(node.inputs[0])) is not None and numbers.ndim > 1 and numbers.dtype.kind == "f"
    }
    if not tables:
        return ""
    names = ", ".join(map(repr, tables))
    return (
        f"the effective bits do not count what Gather looks up: {names}, {sum(tables.values())} weights that "
        "stay float"
    )


@dataclasses.dataclass(frozen=True)
class LoweredLayers:
    """What became of the layers of a file.

    Attributes:
        integer: Number of layers that compute in integers.
        float: Number of those that do not.
        mac_share_integer: Share of the MACs in integers; None if a size is not known.
        islands: Each float layer: ``name``, ``op`` and ``reason``.
    """

    integer: int
    float: int
    mac_share_integer: Share
    islands: list[dict[str, str]]

    @property
    def is_poor(self) -> bool:
        """Whether no layer, or less than half of the network, became integer."""
        share = self.mac_share_integer
        if share is None:
            share = self.integer / max(self.integer + self.float, 1)
        return self.integer == 0 or share < _ENOUGH

    def lines(self) -> list[str]:
        """What to tell a person: the counts, and each reason once."""
        share = "" if self.mac_share_integer is None else f", {self.mac_share_integer:.1%} of the MACs"
        found = [f"{self.integer} of {self.integer + self.float} layers compute in integers{share}"]
        by_reason: dict[str, list[str]] = {}
        for island in self.islands:
            by_reason.setdefault(island["reason"], []).append(f"{island['op']} {island['name']!r}")
        for reason, nodes in by_reason.items():
            more = f" and {len(nodes) - 1} more" if len(nodes) > 1 else ""
            found.append(f"float: {nodes[0]}{more}: {reason}")
        return found


def lowered_layers(path: str | os.PathLike[str]) -> LoweredLayers:
    """Look at a lowered file.

    Raises:
        ModelError: The file cannot be read.
    """
    model = load_model(path)
    rows = integer_layers.rows(model)
    left = {str(node.inputs[1].name): node for node in model.graph if _is_float(node) and node.inputs[1]}
    real = [row for row in rows if row.name in left]
    macs, real_macs = cost.macs(rows), cost.macs(real)
    return LoweredLayers(
        integer=len(rows) - len(real),
        float=len(real),
        mac_share_integer=1 - real_macs / macs if macs and real_macs is not None else None,
        islands=[_island(left[row.name]) for row in real],
    )


def _is_float(node: ir.Node) -> bool:
    return is_op(node, *cost.OPERATORS) and metadata.EXACT not in node.metadata_props


def _island(node: ir.Node) -> dict[str, str]:
    reason = node.metadata_props.get(metadata.ISLAND) or "it has no integer form"
    return {"name": str(node.name or node.outputs[0].name), "op": node.op_type, "reason": reason}
