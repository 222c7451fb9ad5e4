"""What is drawn of a series of many points."""

from __future__ import annotations

__all__ = ["Points", "smoothed", "thinned", "usual"]

import collections
from collections.abc import Sequence
from statistics import fmean

Points = Sequence[tuple[float, float]]
"""Step and value, or pixels."""

_MOST_POINTS = 400
"""Of one line."""
_SMOOTH, _TRIMMED = 1 / 50, 1 / 10
"""The part of a series that a point of its smoothed line is the mean of, and what both ends of that part are
without."""
_UNUSUAL = 1 / 20
"""The part of a series at either end that a panel need not have room for."""


def thinned(points: Points) -> Points:
    """The lowest, highest and last point of each part of a long line: no spike and no level is lost."""
    if len(points) <= _MOST_POINTS:
        return points
    first, last = points[0][0], points[-1][0]
    parts = collections.defaultdict[int, list[tuple[float, float]]](list)
    for point in points:
        parts[int((point[0] - first) / (last - first) * (_MOST_POINTS // 3 - 1))].append(point)
    return [
        point
        for part in parts.values()
        for point in sorted({min(part, key=_value), max(part, key=_value), part[-1]})
    ]


def smoothed(points: Points) -> Points:
    """The moving mean, at no more than a few hundred points, without the extremes of each window.

    A mean with them would follow a single spike of a million.
    """
    half = max(1, int(len(points) * _SMOOTH / 2))
    size = min(2 * half + 1, len(points))
    trimmed = max(1, int(size * _TRIMMED)) if size > 2 else 0
    every = -(-len(points) // _MOST_POINTS)
    line = []
    for i in sorted({*range(0, len(points), every), len(points) - 1}):
        low = min(max(0, i - half), len(points) - size)  # as many at the ends
        values = sorted(value for _, value in points[low : low + size])
        line.append((points[i][0], fmean(values[trimmed : size - trimmed])))
    return line


def usual(points: Points) -> list[float]:
    """The values without the lowest and the highest few."""
    values = sorted(value for _, value in points)
    out = max(1, int(len(values) * _UNUSUAL)) if len(values) > 2 else 0
    return values[out : len(values) - out]


def _value(point: tuple[float, float]) -> float:
    return point[1]
