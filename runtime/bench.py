"""Time files side by side, and tell what ONNX Runtime made of them."""

from __future__ import annotations

__all__ = ["BenchResult", "FileTimes", "bench"]

import collections
import dataclasses
import functools
import os
import re
import statistics
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import onnx_ir as ir
import onnxruntime as ort
from numpy.typing import NDArray

from mpqtool.passes import metadata
from mpqtool.passes.load import load_model, stored_bytes
from mpqtool.passes.lower.saturation import saturates
from mpqtool.passes.values import array

from .errors import RuntimeFault
from .feeds import random_feeds, shapes
from .interleaved import interleaved, ratio
from .optimized import Trace, trace
from .session import make_session, resolve_provider

Array = NDArray[Any]


@dataclasses.dataclass(frozen=True, kw_only=True)
class FileTimes:
    """How long a file takes, and on what.

    Attributes:
        path: The file.
        bytes: Its size, the files that hold its external data included.
        inputs: Shapes by name.
        milliseconds: Median of the rounds.
        ratio: To the first file, the median of the ratios round by round.
        quantized: Whether it holds integers.
        operators: How many of each there are in the graph that ONNX Runtime runs.
        float_layers: Layers of a quantized file that multiply real numbers: name and operator. Those of a
            file for GPUs, which multiply integers in float, are none.
        layout: Nodes that only change the layout, by operator.
        requantize: Nodes that only go from codes to real numbers, or from one range to another, by operator.
        share: Of the profiled time: ``float_layer``, ``layout``, ``requantize`` and ``other``. A profile
            adds about a microsecond to each node.
        microseconds: Profiled time by operator, largest first.
        saturating: Layers whose int8 weights could saturate on a CPU without VNNI.
        needs_vnni: Whether it was lowered for CPUs with VNNI only.
    """

    path: str
    bytes: int
    inputs: dict[str, tuple[int, ...]]
    milliseconds: float
    ratio: float
    quantized: bool
    operators: dict[str, int]
    float_layers: tuple[tuple[str, str], ...]
    layout: dict[str, int]
    requantize: dict[str, int]
    share: dict[str, float]
    microseconds: dict[str, float]
    saturating: tuple[str, ...]
    needs_vnni: bool


@dataclasses.dataclass(frozen=True, kw_only=True)
class BenchResult:
    """What was measured.

    Attributes:
        onnxruntime: Its version.
        provider: Where the files were run. What ONNX Runtime made of them is that of the CPU.
        threads: Threads of one operator; None: what ONNX Runtime chooses.
        rounds: How often each file was run, in turn.
        files: In the order given.
    """

    onnxruntime: str
    provider: str
    threads: int | None
    rounds: int
    files: tuple[FileTimes, ...]


def bench(
    paths: Sequence[str | os.PathLike[str]],
    *,
    batch: int = 1,
    threads: int | None = None,
    rounds: int = 30,
    sizes: Mapping[str, tuple[int, ...]] | None = None,
    provider: str = "cpu",
    on_round: Callable[[], object] | None = None,
) -> BenchResult:
    """Run files in turn, in one process, on seeded noise.

    Args:
        paths: ONNX files of any kind; the first is what the others are compared with.
        batch: Samples, where a file leaves the first size open.
        threads: Threads of one operator; None: what ONNX Runtime chooses.
        rounds: How often each is run.
        sizes: Shapes of inputs that leave other sizes open, by name.
        provider: Key of ``PROVIDERS``, or ``auto``.
        on_round: Called after each round.

    Raises:
        ModelError: A file cannot be read.
        RuntimeFault: A file cannot be run, or an input leaves a size open.
    """
    named = [os.fspath(path) for path in paths]
    if not named or len(set(named)) < len(named):
        raise RuntimeFault(f"Cannot compare {', '.join(named) or 'no files'}: give each file once.")
    if rounds < 1:
        raise RuntimeFault(f"Cannot take the median of {rounds} rounds, allowed 1 or more. Give more rounds.")
    models = {path: load_model(path) for path in named}
    feeds = _feeds(models, batch, sizes or {})
    things = {}
    provider = resolve_provider(named[0], provider)
    for path in named:
        session = make_session(path, provider=provider, threads=threads)
        things[path] = functools.partial(session.run, None, feeds[path])
    try:
        found = interleaved(things, rounds=rounds, on_round=on_round)
    except Exception as error:  # ONNX Runtime's exceptions have no common base but this
        raise RuntimeFault(
            f"ONNX Runtime {ort.__version__} cannot run a file on these inputs: {str(error).splitlines()[0]}"
        ) from error
    return BenchResult(
        onnxruntime=ort.__version__,
        provider=provider,
        threads=threads,
        rounds=rounds,
        files=tuple(
            _file(
                path,
                models[path],
                feeds[path],
                _trace(path, models[path], feeds[path], threads),
                found[path],
                found[named[0]],
            )
            for path in named
        ),
    )


def _feeds(
    models: Mapping[str, ir.Model], batch: int, sizes: Mapping[str, tuple[int, ...]]
) -> dict[str, dict[str, Array]]:
    """Inputs of each file; a size is for the files that have an input of this name, at least one."""
    names = {
        path: {str(value.name) for value in model.graph.inputs if not value.is_initializer()}
        for path, model in models.items()
    }
    all_names = set().union(*names.values())
    unknown = sorted(sizes.keys() - all_names)
    if unknown:
        raise RuntimeFault(
            f"No file has an input {unknown[0]!r}, allowed {', '.join(map(repr, sorted(all_names)))}. "
            "Give the size of one of these."
        )
    return {
        path: random_feeds(
            shapes(model, path, batch=batch, sizes={n: s for n, s in sizes.items() if n in names[path]})
        )
        for path, model in models.items()
    }


def _trace(path: str, model: ir.Model, feeds: dict[str, Array], threads: int | None) -> Trace:
    exact = {str(node.name) for node in model.graph if metadata.EXACT in node.metadata_props}
    return trace(path, feeds, exact=exact, threads=threads)


def _file(
    path: str,
    model: ir.Model,
    feeds: Mapping[str, Array],
    traced: Trace,
    times: Sequence[float],
    reference: Sequence[float],
) -> FileTimes:
    quantized = any(re.match("Q(uantize)?Linear|QGemm|.*Integer", node.op_type) for node in model.graph)
    quantized = quantized or any(metadata.WEIGHT in node.metadata_props for node in model.graph)
    total = sum(step.microseconds for step in traced.steps) or 1.0
    by_kind, by_operator = collections.Counter[str](), collections.Counter[str]()
    for step in traced.steps:
        by_kind[step.kind] += step.microseconds  # type: ignore[assignment]
        by_operator[step.op] += step.microseconds  # type: ignore[assignment]

    def count(wanted: str) -> dict[str, int]:
        return dict(
            collections.Counter(step.op for step in traced.steps if step.kind == wanted).most_common()
        )

    return FileTimes(
        path=path,
        bytes=stored_bytes(path),
        inputs={name: x.shape for name, x in feeds.items()},
        milliseconds=1000 * statistics.median(times),
        ratio=ratio(times, reference),
        quantized=quantized,
        operators=dict(collections.Counter(step.op for step in traced.steps).most_common()),
        float_layers=tuple((s.name, s.op) for s in traced.steps if s.kind == "float_layer" and quantized),
        layout=count("layout"),
        requantize=count("requantize"),
        share={kind: by_kind[kind] / total for kind in ("float_layer", "layout", "requantize", "other")},
        microseconds={op: round(us, 1) for op, us in by_operator.most_common()},
        saturating=_saturating(model, traced),
        needs_vnni=metadata.VNNI in model.metadata_props,
    )


def _saturating(model: ir.Model, traced: Trace) -> tuple[str, ...]:
    """Layers with int8 weights that could saturate; the widths of inputs are those noted in the file."""
    bits = {}
    for node in model.graph:
        source = node.inputs[0].producer() if node.inputs and node.inputs[0] is not None else None
        if source is not None and metadata.BITS in source.metadata_props:
            bits[str(node.name)] = int(source.metadata_props[metadata.BITS])
    nodes = zip(traced.model.graph, traced.steps, strict=True)
    return tuple(
        step.name
        for node, step in nodes
        if _multiplies_codes(node) and saturates(node, bits.get(step.name, 8))
    )


def _multiplies_codes(node: ir.Node) -> bool:
    """Whether the input is uint8: two signed codes are added in 16 bits without loss."""
    zero = array(node.inputs[2]) if len(node.inputs) > 2 else None
    return zero is not None and zero.dtype == np.uint8
