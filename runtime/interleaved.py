"""Time several things in turn."""

from __future__ import annotations

__all__ = ["interleaved", "ratio", "table"]

import statistics
import time
from collections.abc import Callable, Mapping, Sequence


def interleaved(
    things: Mapping[str, Callable[[], object]],
    *,
    rounds: int,
    on_round: Callable[[], object] | None = None,
) -> dict[str, list[float]]:
    """Seconds of each thing: all of them in turn, ``rounds`` times, so that a drifting machine cancels out.

    Each is run once before, to warm up.
    """
    for thing in things.values():
        thing()
    found: dict[str, list[float]] = {name: [] for name in things}
    for _ in range(rounds):
        for name, thing in things.items():
            began = time.perf_counter()
            thing()
            found[name].append(time.perf_counter() - began)
        if on_round is not None:
            on_round()
    return found


def ratio(times: Sequence[float], reference: Sequence[float]) -> float:
    """The median of the ratios round by round: what both have in common cancels out."""
    return statistics.median(t / r for t, r in zip(times, reference, strict=True))


def table(found: Mapping[str, Sequence[float]], *, reference: str) -> str:
    """Lines of text: median milliseconds, and the ratio to ``reference``."""
    lines = [f"{'':<40}{'ms':>9}{'x ' + reference:>24}"]
    for name, times in found.items():
        milliseconds, relative = 1000 * statistics.median(times), ratio(times, found[reference])
        lines.append(f"{name:<40}{milliseconds:9.2f}{relative:24.2f}")
    return "\n".join(lines)
