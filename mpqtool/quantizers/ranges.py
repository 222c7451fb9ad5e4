"""Rules for the range of an activation: which scale and zero point fit the values that were seen."""

from __future__ import annotations

__all__ = ["OF_HISTOGRAM", "RANGES", "Ranges", "entropy", "fit_codes", "min_max", "mse", "percentile"]

from collections.abc import Callable, Iterator, Mapping
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from .observer import Histogram, Observer

Ranges = Literal["mse", "percentile", "entropy", "minmax"]

OF_HISTOGRAM = frozenset[Ranges]({"percentile", "entropy"})
"""Rules that need a histogram."""

_STEPS = 24
"""Scales that are tried in one octave."""
_OUTSIDE = 1e-4
"""Share of the elements that ``percentile`` leaves out: 100 % - 99.99 %."""
_JOINED = 2
"""Bins of a histogram that are one for ``entropy``: 16 for each code of 8 bits, as in TensorRT."""
_TINY = float(np.finfo(np.float32).tiny)


def mse(seen: Observer, bits: int, *, nonnegative: bool) -> tuple[float, int]:
    """The scale and zero point with the least squared error on a sample."""
    return fit_codes(seen.reservoir.sample, bits, nonnegative=nonnegative)


def fit_codes(
    x: NDArray[np.float32], bits: int, *, nonnegative: bool, weights: NDArray[np.float64] | None = None
) -> tuple[float, int]:
    """The scale and zero point with the least squared error on some values.

    Args:
        x: Any shape.
        bits: Width of a code.
        nonnegative: Whether the zero point must be 0.
        weights: What the error of each value counts, ``(values,)``; None: all the same.
    """
    high, flat = 2**bits - 1, x.ravel()
    best = (np.inf, 1.0, 0)
    for scale, zero_points in _tried(float(x.min(initial=0)), float(x.max(initial=0)), high, nonnegative):
        steps = np.rint(flat / np.float32(scale))
        for zero_point in zero_points:
            # What dequantize makes of quantize: whole numbers are exact in float32.
            lost = (steps.clip(-zero_point, high - zero_point) * np.float32(scale) - flat).astype(np.float64)
            error = float(lost @ (lost if weights is None else weights * lost))
            best = min(best, (error, scale, zero_point))
    return best[1], best[2]


def min_max(seen: Observer, bits: int, *, nonnegative: bool) -> tuple[float, int]:
    """The smallest scale that clips no element of all; its zero point is even."""
    return _covering(seen.smallest, seen.largest, 2**bits - 1, nonnegative)


def percentile(seen: Observer, bits: int, *, nonnegative: bool) -> tuple[float, int]:
    """The smallest scale that clips no element of a range with 99.99 % of all elements in it.

    At most 0.005 % of the elements are below the range and at most 0.005 % above, zeros counted too. Where
    the zero point must be 0, it is 0.01 % above. The ends are those of bins, the closest ones for which
    this holds; so each is at most a 4096th of the largest magnitude too far out, and never further out than
    the farthest element.
    """
    histogram = _histogram(seen)
    counts = histogram.counts.copy()
    counts[Histogram.BINS] += histogram.zeros
    total = int(counts.sum())
    allowed = int(total * (_OUTSIDE if nonnegative else _OUTSIDE / 2))
    below = np.cumsum(counts) - counts  # elements in lower bins
    above = total - below - counts
    low = int(np.flatnonzero(below <= allowed)[-1]) - Histogram.BINS
    high = int(np.flatnonzero(above <= allowed)[0]) + 1 - Histogram.BINS
    smallest, largest = max(low * histogram.width, seen.smallest), min(high * histogram.width, seen.largest)
    return _covering(smallest, largest, 2**bits - 1, nonnegative)


def entropy(seen: Observer, bits: int, *, nonnegative: bool) -> tuple[float, int]:
    """The scale and zero point whose codes tell most of the distribution: the least KL divergence.

    ``sum_j p_j log(p_j / q_j)`` over the bins j that the codes reach. ``p`` is the histogram, what is clipped
    added to the bins at the ends. ``q`` is the histogram without what is clipped, each code's share spread
    evenly over its bins; empty bins have none. Both are shares of all elements, so that ``q`` lacks what is
    clipped: scaled up to 1, it would equal ``p`` where the codes reach a single bin.

    Both ends of the range are searched, not one that stands for both: half of the codes would be idle on
    values that reach further on one side. Zeros do not count, as they are exact at any scale; a ReLU's
    would have the codes end where almost nothing is but them.

    Source: Migacz, 8-bit inference with TensorRT, GTC 2017; ONNX Runtime's ``get_entropy_threshold`` for
    what is clipped.
    """
    histogram, high = _histogram(seen), 2**bits - 1
    width, counts = histogram.width * _JOINED, histogram.counts.reshape(-1, _JOINED).sum(1)
    (used,) = np.nonzero(counts)
    centers = (used + 0.5 - Histogram.BINS // _JOINED) * width
    best = (np.inf, 1.0, 0)
    for scale, zero_points in _tried(seen.smallest, seen.largest, high, nonnegative):
        if scale >= width:  # narrower codes would be exact by the histogram
            steps = np.rint(centers / scale)
            for zero_point in zero_points:
                divergence = _divergence(counts[used], steps + zero_point, high)
                best = min(best, (divergence, scale, zero_point))
    return best[1], best[2]


RANGES: Mapping[Ranges, Callable[..., tuple[float, int]]] = {
    "mse": mse,
    "percentile": percentile,
    "entropy": entropy,
    "minmax": min_max,
}
"""Each takes an observer, a width and whether the zero point must be 0."""


def _histogram(seen: Observer) -> Histogram:
    if seen.histogram is None:
        raise ValueError("this rule needs an observer with a histogram")
    return seen.histogram


def _divergence(counts: NDArray[np.int64], codes: NDArray[np.float64], high: int) -> float:
    """Of bins that are not empty, by rising codes; those of no code of the grid are clipped."""
    first, last = np.searchsorted(codes, 0, "left"), np.searchsorted(codes, high, "right")
    inside = counts[first:last].astype(np.float64)
    if not len(inside):
        return np.inf
    starts = np.flatnonzero(np.diff(codes[first:last], prepend=-1))
    bins = np.diff(starts, append=len(inside))
    q = np.repeat(np.add.reduceat(inside, starts) / bins, bins) / counts.sum()
    inside[0] += counts[:first].sum()
    inside[-1] += counts[last:].sum()
    p = inside / counts.sum()
    return float((p * np.log(p / q)).sum())


def _covering(smallest: float, largest: float, high: int, nonnegative: bool) -> tuple[float, int]:
    """The smallest scale with an even zero point on which codes reach both ends, and 0."""
    smallest, largest = 0.0 if nonnegative else min(smallest, 0.0), max(largest, 0.0)
    if smallest == largest:
        return 1.0, 0
    if smallest == 0:
        return _float32(largest / high), 0
    share = -smallest / (largest - smallest)
    even = 2 * int(share * high / 2)
    tried = {min(max(zero_point, 2), high - 1) for zero_point in (even, even + 2)}
    return min((_float32(max(-smallest / z, largest / (high - z))), z) for z in tried)


def _tried(
    smallest: float, largest: float, high: int, nonnegative: bool
) -> Iterator[tuple[float, list[int]]]:
    """Scales worth trying, and for each the zero points; none if all values are 0."""
    smallest, largest = min(smallest, 0.0), max(largest, 0.0)
    span = largest - (0 if nonnegative else smallest)
    if span <= 0:
        return
    # From "covers everything" down to a 32nd of it: below that no clip is ever best.
    for octaves in range(5 * _STEPS):
        scale = _float32(span / high * 2.0 ** (-octaves / _STEPS))
        yield scale, _zero_points(smallest, largest, scale, high, nonnegative)


def _zero_points(smallest: float, largest: float, scale: float, high: int, nonnegative: bool) -> list[int]:
    """Zero points worth trying: the low end kept, the high end kept, and three between.

    Even ones only: a sum rounds with its zero point inside (QLinearAdd) or outside (QuantizeLinear), and
    for an even one half to even is the same either way.
    """
    if nonnegative:
        return [0]
    keep_low, keep_high = -smallest / scale, high - largest / scale
    tried = {2 * round((keep_low + t * (keep_high - keep_low)) / 2) for t in (0, 0.25, 0.5, 0.75, 1)}
    return sorted({min(max(z, 0), high - 1) for z in tried})


def _float32(scale: float) -> float:
    return float(np.float32(max(scale, _TINY)))
