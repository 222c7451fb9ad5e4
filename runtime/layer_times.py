"""Measure how long each layer of an integer file takes."""

from __future__ import annotations

__all__ = ["layer_times"]

import collections
import json
import pathlib
import re
import statistics
import tempfile
import time
from collections.abc import Mapping, Sequence
from typing import Any

import onnx_ir as ir
from numpy.typing import NDArray

from mpqtool.passes import metadata

from .errors import RuntimeFault
from .session import make_session

_PROFILES = 3
"""Sessions that are profiled: what one is lucky with, such as where its memory lies, evens out."""
_SECONDS, _LEAST, _MOST = 0.5, 5, 40
"""How long each of them runs the model, and how often."""
_KERNEL = re.compile(r"(layer\d+)(_.*)?_kernel_time")
"""An operator in a profile. ONNX Runtime adds to the name of a node that it changes."""
_TICK = 1e-6
"""Profiles count whole microseconds."""


def layer_times(model: ir.Model, feeds: Mapping[str, NDArray[Any]]) -> dict[str, tuple[float, ...]]:
    """Seconds that ONNX Runtime takes for each layer of an integer file, on the CPU.

    A time is the mean of the faster half of all runs: what else the machine does only ever adds to it. It is
    that of the layer's own operator, without changes of the layout in front of it, on one thread: on
    more of them, small layers mostly wait.

    Args:
        model: Of ``pipelines.lower``, for target ``cpu``; left as it is.
        feeds: Graph inputs by name. Times do not depend on the numbers.

    Returns:
        By the name of the weight in the plan: one time for each node that uses it, in graph order, each a
        microsecond at least. Layers that stayed float are not in it.

    Raises:
        RuntimeFault: The model cannot be loaded, or ONNX Runtime merged a layer with something else.
    """
    copy = model.clone()
    layers = {}
    for index, node in enumerate(copy.graph):
        weight = node.metadata_props.get(metadata.WEIGHT)
        node.name = f"other{index}" if weight is None else f"layer{index}"
        if weight is not None:
            layers[node.name] = weight
    source = ir.to_proto(copy).SerializeToString()
    runs = collections.defaultdict[str, list[float]](list)
    for _ in range(_PROFILES):
        for name, seconds in _profile(source, feeds):
            runs[name].append(seconds)
    found = collections.defaultdict[str, tuple[float, ...]](tuple)
    for name, weight in layers.items():
        if name not in runs:
            raise RuntimeFault(
                f"Cannot tell how long the layer of {weight!r} takes: ONNX Runtime merged it with another "
                "operator. Use --hardware bitops."
            )
        found[weight] += (max(_mean_of_faster_half(runs[name]), _TICK),)
    return dict(found)


def _profile(source: bytes, feeds: Mapping[str, NDArray[Any]]) -> list[tuple[str, float]]:
    """Name and seconds of each run of each layer."""
    with tempfile.TemporaryDirectory() as folder:
        session = make_session(source, threads=1, traces=folder)
        end = time.perf_counter() + _SECONDS
        for run in range(_MOST):
            if run >= _LEAST and time.perf_counter() > end:
                break
            session.run(None, dict(feeds))
        events = json.loads(pathlib.Path(session.end_profiling()).read_text(encoding="utf-8"))
    named = ((_KERNEL.fullmatch(event["name"]), event) for event in events)
    return [(found[1], event["dur"] / 1e6) for found, event in named if found is not None]


def _mean_of_faster_half(seconds: Sequence[float]) -> float:
    return statistics.fmean(sorted(seconds)[: (len(seconds) + 1) // 2])
