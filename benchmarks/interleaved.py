"""A table of times that ``mpqtool.runtime.bench.interleaved`` took."""

from __future__ import annotations

import statistics
from collections.abc import Mapping

from mpqtool.runtime.bench import interleaved as seconds
from mpqtool.runtime.bench import ratio

__all__ = ["seconds", "table"]


def table(found: Mapping[str, list[float]], *, reference: str) -> str:
    """Median milliseconds, and the median of the ratios to ``reference`` round by round."""
    lines = [f"{'':<40}{'ms':>9}{'x ' + reference:>14}"]
    for name, times in found.items():
        milliseconds, relative = 1000 * statistics.median(times), ratio(times, found[reference])
        lines.append(f"{name:<40}{milliseconds:9.2f}{relative:14.2f}")
    return "\n".join(lines)
