"""Look at what ONNX Runtime makes of a file: the graph it runs, and where its time goes."""

from __future__ import annotations

__all__ = ["Step", "Trace", "trace"]

import collections
import dataclasses
import json
import os
import pathlib
import re
import statistics
import tempfile
from collections.abc import Collection, Mapping
from typing import Any

import onnx_ir as ir
from numpy.typing import NDArray

from .session import OPTIMIZED, make_session

Array = NDArray[Any]

LAYOUT = ("Transpose", "ReorderInput", "ReorderOutput")
REQUANTIZE = ("QuantizeLinear", "DequantizeLinear", "DynamicQuantizeLinear", "Cast")
CLAMPS = ("Clip", "Max", "Min")
FLOAT_LAYERS = (
    "Conv", "ConvTranspose", "FusedConv", "FusedGemm", "FusedMatMul", "Gemm", "MatMul", "MatMulNBits",
)  # fmt: skip
"""Layers that multiply in float: what ONNX Runtime computes in integers has another name."""

INTEGER_LAYERS = ("MatMulInteger", "ConvInteger", "MatMulIntegerToFloat", "DynamicQuantizeMatMul")

_RUNS, _WARM_UP = 12, 2
_NODE = "_kernel_time"
_ADDED = re.compile(r"(_nchwc|_token_\d+)+$")
"""What ONNX Runtime adds to the name of a node that it changes."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Step:
    """One operator of the optimised graph.

    Attributes:
        name: Of the node, as in the file where ONNX Runtime keeps it.
        op: Operator type.
        inputs: Names of the values it uses.
        outputs: Names of the values it makes.
        kind: ``float_layer``, ``layout``, ``requantize`` or ``other``.
        microseconds: Median over the runs; with profiling, which adds about one to each.
    """

    name: str
    op: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    kind: str
    microseconds: float


@dataclasses.dataclass(frozen=True)
class Trace:
    """The optimised graph in its order, and its weights.

    Attributes:
        steps: The operators.
        model: The graph itself.
    """

    steps: tuple[Step, ...]
    model: ir.Model


def trace(
    model: str | os.PathLike[str] | bytes,
    feeds: Mapping[str, Array],
    *,
    exact: Collection[str] = (),
    threads: int | None = None,
    runs: int = _RUNS,
) -> Trace:
    """Optimise a file at the highest level, on the CPU, and run it with a profile.

    Args:
        model: Path of a file, or its bytes.
        feeds: Graph inputs by name.
        exact: Names of nodes that compute integers in several operators, written out: layers, which are
            none in float then, and the elementwise ones that requantise.
        threads: Threads of one operator; None: what ONNX Runtime chooses.
        runs: Times it is run, after two that do not count.

    Raises:
        RuntimeFault: It cannot be loaded.
    """
    with tempfile.TemporaryDirectory() as folder:
        session = make_session(model, threads=threads, traces=folder)
        for _ in range(_WARM_UP + runs):
            session.run(None, dict(feeds))
        profile = pathlib.Path(session.end_profiling())
        durations = _durations(json.loads(profile.read_text(encoding="utf-8")))
        optimized = ir.load(pathlib.Path(folder) / OPTIMIZED)
        ir.external_data.load_to_model(optimized)
    unnamed = collections.Counter[str]()
    steps = []
    for node in optimized.graph:
        name = node.name or ""
        found = durations.get(name)
        if found is None and not name:  # ONNX Runtime calls it OPERATOR_INDEX there
            found = _unnamed(durations, node.op_type, unnamed[node.op_type])
            unnamed[node.op_type] += 1
        steps.append(
            Step(
                name=_ADDED.sub("", name),
                op=node.op_type,
                inputs=tuple(str(value.name) for value in node.inputs if value is not None),
                outputs=tuple(str(value.name) for value in node.outputs),
                kind=_kind(node, _ADDED.sub("", name), exact),
                microseconds=statistics.median(found[_WARM_UP:]) if found else 0.0,
            )
        )
    return Trace(tuple(steps), optimized)


def _kind(node: ir.Node, name: str, exact: Collection[str]) -> str:
    if node.op_type in LAYOUT:
        return "layout"
    if node.op_type in FLOAT_LAYERS:
        return "other" if name in exact else "float_layer"
    written_out = name in exact and node.op_type not in INTEGER_LAYERS
    if node.op_type in REQUANTIZE or written_out or (node.op_type in CLAMPS and _bounds_codes(node)):
        return "requantize"
    return "other"


def _bounds_codes(node: ir.Node) -> bool:
    return any(value is not None and value.dtype is ir.DataType.UINT8 for value in node.inputs[1:])


def _durations(events: list[dict[str, Any]]) -> dict[str, list[float]]:
    """Microseconds of every run of every node, by its name."""
    durations: dict[str, list[float]] = {}
    for event in sorted((e for e in events if e.get("cat") == "Node"), key=lambda e: int(e["ts"])):
        if event["name"].endswith(_NODE):
            durations.setdefault(event["name"].removesuffix(_NODE), []).append(float(event["dur"]))
    return durations


def _unnamed(durations: Mapping[str, list[float]], op: str, index: int) -> list[float] | None:
    """The times of the ``index``-th unnamed node of an operator, as they are numbered."""
    numbers = sorted(
        int(name.removeprefix(f"{op}_")) for name in durations if re.fullmatch(f"{op}_\\d+", name)
    )
    return durations[f"{op}_{numbers[index]}"] if index < len(numbers) else None
