"""Choose what is integer and what is float by timing whole files."""

from __future__ import annotations

__all__ = ["Choice", "fastest"]

import dataclasses
import datetime
import functools
import math
import os
import pathlib
import statistics
from collections.abc import Callable, Mapping, Sequence

import onnx_ir as ir
import onnxruntime as ort

import mpqtool
from mpqtool.health import cpu_model
from mpqtool.passes import pipelines
from mpqtool.passes.lower.keep_float import units
from mpqtool.reporter import Reporter
from mpqtool.runtime.feeds import Array, random_feeds, shapes
from mpqtool.runtime.interleaved import interleaved, ratio
from mpqtool.runtime.session import make_session

from . import cache
from .costs import Costs, measure
from .cut import cheapest

_WEIGHTS = (0.5, 1.0, 2.0, 4.0)
_NOISE = 1.02
"""Files whose times differ by less are as fast as each other: the one with more integers is better."""
_SECONDS, _LEAST, _MOST = 6.0, 15, 60
_PROBES = 3
_KEPT = ("float_layers", "date", "milliseconds", "ratio", "full_ratio")


@dataclasses.dataclass(frozen=True)
class Choice:
    """What stays float, and what that is worth.

    Attributes:
        float_layers: Why, by the name of the first output of the operator: ``pipelines.lower``.
        milliseconds: Of the file that is made of it.
        ratio: Of that time to that of the file in float, when it was measured the second time.
        full_ratio: Of the time of the file with all in integers to that of the file in float.
        date: When it was measured, ``2026-01-31``.
        cached: The file that it was read from; None: it was measured now.
    """

    float_layers: dict[str, str]
    milliseconds: float
    ratio: float
    full_ratio: float
    date: str
    cached: pathlib.Path | None = dataclasses.field(default=None, compare=False)


def fastest(
    qdq: ir.Model,
    *,
    path: str,
    sizes: Mapping[str, tuple[int, ...]] | None = None,
    threads: int | None = None,
    vnni: bool = False,
    reporter: Reporter | None = None,
) -> Choice:
    """Which operators to leave in float so that the network is as fast as it can be on this machine.

    Candidates are: all in integers, all in float, and the divisions that take the least time by the
    profiles of these two, for several prices of the borders between them. All of them are timed as whole
    files, in turn; the best has to beat float a second time. As float is one of them, the choice is never
    slower than float: than the network in its normal form, BatchNormalization folded, without a
    QuantizeLinear. It is kept, and found again for the same model, CPU, ONNX Runtime, threads and sizes.

    Args:
        qdq: Left as it is.
        path: What it is called in messages.
        sizes: Shapes of inputs that leave more open than the batch, which is 1.
        threads: Threads of one operator; None: what ONNX Runtime chooses.
        vnni: Whether the file is for CPUs with VNNI only.
        reporter: Where progress goes; None: nowhere.

    Raises:
        RuntimeFault: An input leaves a size open.
    """
    feeds = random_feeds(shapes(qdq, path, batch=1, sizes=sizes or {}))
    kept = cache.path_of(
        ir.to_proto(qdq).SerializeToString(deterministic=True),
        mpqtool=mpqtool.__version__, onnxruntime=ort.__version__, cpu=cpu_model(), cores=os.cpu_count(),
        threads=threads, vnni=vnni,
        inputs={name: array.shape for name, array in feeds.items()},
    )  # fmt: skip
    canonical = pipelines.canonical_qdq(qdq)
    choice = _recalled(kept, canonical)
    if choice is None:
        choice = _choose(
            canonical, feeds, threads=threads, vnni=vnni, reporter=reporter or Reporter(silent=True)
        )
        cache.store(kept, {name: getattr(choice, name) for name in _KEPT})
    return choice


def _recalled(path: pathlib.Path, canonical: ir.Model) -> Choice | None:
    """The choice that is kept there, if it is one for this model."""
    found = cache.load(path)
    if found is None or found.keys() != set(_KEPT):
        return None
    layers, date, *times = (found[name] for name in _KEPT)
    known = {str(node.outputs[0].name) for unit in units(canonical.graph) for node in unit}
    if not isinstance(layers, dict) or not known.issuperset(layers) or not isinstance(date, str):
        return None
    reasons_fit = all(isinstance(reason, str) for reason in layers.values())
    times_fit = all(type(time) is float and math.isfinite(time) and time > 0 for time in times)
    return Choice(**found, cached=path) if reasons_fit and times_fit else None


def _choose(
    canonical: ir.Model, feeds: dict[str, Array], *, threads: int | None, vnni: bool, reporter: Reporter
) -> Choice:
    everything = frozenset(range(len(units(canonical.graph))))
    names = [[str(node.outputs[0].name) for node in unit] for unit in units(canonical.graph)]

    def lowered(chosen: frozenset[int]) -> ir.Model:
        layers = {name: "float" for unit in chosen for name in names[unit]}
        return pipelines.lower(canonical, vnni=vnni, float_layers=layers)

    models = {everything: lowered(everything), frozenset(): lowered(frozenset())}
    costs = measure(canonical, models[frozenset()], models[everything], feeds, threads=threads)
    candidates = list(dict.fromkeys([*models, *(cheapest(costs, weight=w) for w in _WEIGHTS)]))
    runs = {}
    with reporter.progress(len(candidates), "divisions into integers and float") as progress:
        for index, chosen in enumerate(candidates):
            model = models.get(chosen) or lowered(chosen)
            session = make_session(ir.to_proto(model).SerializeToString(), threads=threads)
            runs[str(index)] = functools.partial(session.run, None, feeds)
            progress.advance()
    probe = interleaved(runs, rounds=_PROBES)
    rounds = int(_SECONDS / sum(map(statistics.median, probe.values())))
    rounds = max(_LEAST, min(_MOST, rounds))

    def timed(keys: Sequence[str], label: str) -> dict[str, list[float]]:
        with reporter.progress(rounds, label) as progress:
            return interleaved({key: runs[key] for key in keys}, rounds=rounds, on_round=progress.advance)

    def again(chosen: frozenset[int]) -> float:
        in_float, mixed = timed(["0", str(candidates.index(chosen))], "timing the best again").values()
        return max(_quick(mixed) / _quick(in_float), ratio(mixed, in_float))

    times = timed(list(runs), "timing integers and float")
    quick = {chosen: _quick(times[str(i)]) for i, chosen in enumerate(candidates)}
    ratios = {chosen: seconds / quick[everything] for chosen, seconds in quick.items()}
    best, confirmed = _settle(ratios, everything, costs, again)
    return Choice(
        float_layers=_reasons(best, _scaled(costs, real=quick[everything], integer=quick[frozenset()])),
        milliseconds=1000 * quick[best],
        ratio=confirmed,
        full_ratio=confirmed if not best else ratios[frozenset()],
        date=datetime.date.today().isoformat(),
    )


def _settle(
    ratios: Mapping[frozenset[int], float],
    everything: frozenset[int],
    costs: Costs,
    again: Callable[[frozenset[int]], float],
) -> tuple[frozenset[int], float]:
    """The best that a second measurement finds no slower than float, and what that gave.

    The best of several looks better than it is, by what the machine did besides while it was timed.
    """
    left = dict(ratios)
    while (best := _best(left, costs)) != everything:
        confirmed = again(best)
        if confirmed <= 1:
            return best, confirmed
        del left[best]
    return everything, 1.0


def _quick(times: Sequence[float]) -> float:
    """A time that a fifth of the runs were as fast as: what else the machine does only ever adds to it."""
    return sorted(times)[len(times) // 5]


def _best(ratios: Mapping[frozenset[int], float], costs: Costs) -> frozenset[int]:
    """The fastest; of those as fast as it, and not slower than float, that with the most work in integers."""
    limit = max(min(ratios.values()), min(_NOISE * min(ratios.values()), 1.0))
    fast = [chosen for chosen, value in ratios.items() if value <= limit]
    return min(fast, key=lambda chosen: (sum(costs.real[unit] for unit in chosen), len(chosen)))


def _scaled(costs: Costs, *, real: float, integer: float) -> Costs:
    """Costs that add up to the seconds of the whole files: a profile adds its own time to each node."""
    return dataclasses.replace(
        costs,
        real=tuple(1e6 * real * time / (sum(costs.real) or 1) for time in costs.real),
        integer=tuple(1e6 * integer * time / (sum(costs.integer) or 1) for time in costs.integer),
    )


def _reasons(chosen: frozenset[int], costs: Costs) -> dict[str, str]:
    """Why each operator is float: the times of the region that it is in."""
    reasons = {}
    for region in _regions(chosen, costs):
        real, integer = (sum(times[unit] for unit in region) / 1000 for times in (costs.real, costs.integer))
        why = f"float is faster here: {real:.2g} ms against {integer:.2g} ms"
        if real >= integer:
            why = "float is faster here, as it is around it"
        reasons.update({name: why for unit in region for name in costs.names[unit]})
    return reasons


def _regions(chosen: frozenset[int], costs: Costs) -> Sequence[set[int]]:
    """The chosen units, those together that values connect."""
    region_of = {unit: {unit} for unit in chosen}
    for maker, users, _ in costs.crossings:
        joined = [unit for unit in (maker, *users) if unit in region_of] if maker in region_of else []
        merged = set().union(*(region_of[unit] for unit in joined))
        region_of.update(dict.fromkeys(merged, merged))
    return list({id(region): region for region in region_of.values()}.values())
