"""What each operator of a QDQ model takes, in integers and in float, and what lies between them."""

from __future__ import annotations

__all__ = ["Costs", "measure"]

import dataclasses
import re
from collections.abc import Mapping, Sequence

import onnx_ir as ir

from mpqtool.passes import cost, metadata
from mpqtool.passes.lower.keep_float import quantized_value, units
from mpqtool.passes.values import array, is_op
from mpqtool.runtime.optimized import Array, trace

_TAG = re.compile(r"u(\d+)_")


@dataclasses.dataclass(frozen=True)
class Costs:
    """Microseconds of every unit (``keep_float.units``), in graph order, and the values between units.

    Attributes:
        names: The first outputs of the operators of each unit.
        integer: With codes in and out, what makes them included.
        real: In float, with float in and out.
        crossings: Of each value that is quantized: the unit that makes it (None: a graph input), those that
            use it, and its elements.
    """

    names: tuple[tuple[str, ...], ...]
    integer: tuple[float, ...]
    real: tuple[float, ...]
    crossings: tuple[tuple[int | None, tuple[int, ...], int], ...]


def measure(
    qdq: ir.Model, integer: ir.Model, real: ir.Model, feeds: Mapping[str, Array], *, threads: int | None
) -> Costs:
    """Profile both forms, and share the time out to the units.

    Args:
        qdq: Canonical.
        integer: Lowered, all in integers.
        real: Lowered, all in float.
        feeds: Graph inputs by name.
        threads: Threads of one operator; None: what ONNX Runtime chooses.
    """
    found = units(qdq.graph)
    names = tuple(tuple(str(node.outputs[0].name) for node in unit) for unit in found)
    unit_of = {str(v.name): i for i, unit in enumerate(found) for node in unit for v in node.outputs}
    return Costs(
        names=names,
        integer=_times(integer, unit_of, len(found), feeds, threads),
        real=_times(real, unit_of, len(found), feeds, threads),
        crossings=_crossings(qdq, found, {name: array.shape for name, array in feeds.items()}),
    )


def _times(
    lowered: ir.Model, unit_of: Mapping[str, int], count: int, feeds: Mapping[str, Array], threads: int | None
) -> tuple[float, ...]:
    """Microseconds of each unit of a lowered model."""
    model = lowered.clone()
    nodes = list(model.graph)
    owners = _owners(nodes, unit_of)
    inside = {str(value.name) for value in model.graph.inputs}
    for index, (node, unit) in enumerate(zip(nodes, owners, strict=True)):
        # Whatever ONNX Runtime makes of a node, its name or its result begins like this.
        node.name = f"u{unit}_{index}"
        for position, value in enumerate(node.outputs):
            if value.name not in inside:
                value.name = f"u{unit}_{index}_{position}"
    traced = trace(ir.to_proto(model).SerializeToString(), feeds, threads=threads).steps
    users: dict[str, int] = {}
    times = [0.0] * count
    for step in reversed(traced):
        tags = (_TAG.match(name) for name in (step.name, *step.outputs))
        named = [int(tag[1]) for tag in tags if tag is not None]
        named += [users[name] for name in step.outputs if name in users]  # a layout change works for its user
        if not named:
            continue
        unit = named[0]
        times[unit] += step.microseconds
        for name in step.inputs:
            users.setdefault(name, unit)
    return tuple(times)


def _owners(nodes: Sequence[ir.Node], unit_of: Mapping[str, int]) -> list[int]:
    """The unit that each node of a lowered model works for: its own, or that of the first user."""
    owners: dict[ir.Node, int] = {}
    for node in reversed(nodes):
        named = node.metadata_props.get(metadata.FLOAT)
        names = [str(v.name).removesuffix(metadata.SUFFIX) for v in node.outputs]
        own = [unit_of[n] for n in ([named] if named else []) + names if n in unit_of]
        later = [owners[use.node] for value in node.outputs for use in value.uses() if use.node in owners]
        owners[node] = next(iter([*own, *later]), 0)
    return [owners[node] for node in nodes]


def _crossings(
    qdq: ir.Model, found: Sequence[Sequence[ir.Node]], shapes: Mapping[str, tuple[int, ...]]
) -> tuple[tuple[int | None, tuple[int, ...], int], ...]:
    sized = cost.sized(qdq, shapes)
    sizes = {str(v.name): cost.size(v.shape, 1) for node in sized.graph for v in node.outputs}
    unit_of = {node: index for index, unit in enumerate(found) for node in unit}
    crossings = []
    for node in qdq.graph:
        if not is_op(node, "DequantizeLinear") or array(node.inputs[0]) is not None:
            continue
        real, source = node.outputs[0], quantized_value(node)
        producer = source.producer() if source is not None else None
        users = {unit_of[use.node] for use in real.uses() if use.node in unit_of}
        maker = unit_of.get(producer) if producer is not None else None
        crossings.append((maker, tuple(sorted(users)), sizes.get(str(real.name)) or 0))
    return tuple(crossings)
