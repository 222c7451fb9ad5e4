"""Time several things side by side in one process, in turn, so that a drifting machine cancels out."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping


def seconds(things: Mapping[str, Callable[[], object]], *, rounds: int) -> dict[str, list[float]]:
    """Run each thing once to warm up, then all of them in turn, ``rounds`` times."""
    for thing in things.values():
        thing()
    found: dict[str, list[float]] = {name: [] for name in things}
    for _ in range(rounds):
        for name, thing in things.items():
            began = time.perf_counter()
            thing()
            found[name].append(time.perf_counter() - began)
    return found


def table(found: Mapping[str, list[float]], *, reference: str) -> str:
    """Median milliseconds, and the median of the ratios to ``reference`` round by round."""
    lines = [f"{'':<40}{'ms':>9}{'x ' + reference:>14}"]
    for name, times in found.items():
        ratio = statistics.median(t / r for t, r in zip(times, found[reference], strict=True))
        lines.append(f"{name:<40}{1000 * statistics.median(times):9.2f}{ratio:14.2f}")
    return "\n".join(lines)
