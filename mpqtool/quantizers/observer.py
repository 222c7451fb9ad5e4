"""What is known of a stream of values, in memory that does not grow: extremes, a sample, a histogram."""

from __future__ import annotations

__all__ = ["SAMPLES_PER_VALUE", "Histogram", "Observer", "Reservoir"]

import math

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

SAMPLES_PER_VALUE = 2**14
"""Elements of a value that the fit looks at; more changed no fitted scale by more than 2 %."""

_LEAST_EXPONENT = -100
"""Bins are no narrower than for values of this size, so that a float32 divided by a width stays finite."""
_AT_ONCE = 2**20
"""Elements that are counted at once, to save memory."""


class Observer:
    """What passes one place of a network; the same, in however many batches it comes.

    Attributes:
        smallest: Of all elements, exactly; NaN if one is NaN.
        largest: The same at the other end.
        reservoir: A sample of the elements.
        histogram: Of all elements, or None.

    Args:
        histogram: Whether to keep one.
    """

    def __init__(self, *, histogram: bool = False) -> None:
        self.smallest, self.largest = math.inf, -math.inf
        self.reservoir = Reservoir(SAMPLES_PER_VALUE)
        self.histogram = Histogram() if histogram else None

    @property
    def is_finite(self) -> bool:
        """Whether all elements so far are finite numbers."""
        empty = self.smallest > self.largest
        return empty or (math.isfinite(self.smallest) and math.isfinite(self.largest))

    def add(self, x: Tensor) -> None:
        """Take in values of any shape, samples along the first axis."""
        if not x.numel():
            return
        flat = x.detach().flatten().float()
        smallest, largest = (float(end) for end in flat.aminmax())
        self.smallest = float(np.minimum(self.smallest, smallest))  # unlike min, it lets NaN through
        self.largest = float(np.maximum(self.largest, largest))
        self.reservoir.add(flat)
        if self.histogram is not None and self.is_finite:
            self.histogram.add(flat, reach=max(-smallest, largest))


class Reservoir:
    """A sample of a stream, uniform and without replacement, in the order of the stream.

    Every element has a random key, and the elements with the smallest keys are the sample. A key above all
    that are kept is of no use, so none is drawn: the gaps between elements with smaller ones are geometric.
    Keys depend on places in the stream alone, so that it may be cut into batches of any size.

    Source: the skips of Li, Reservoir-sampling algorithms of time complexity O(n(1+log(N/n))), 1994, drawn
    many at once.

    Args:
        most: Size of the sample; a shorter stream is kept whole.
    """

    def __init__(self, most: int) -> None:
        self.most = most
        self._random = np.random.default_rng(0)
        self._seen, self._bound = 0, 1.0
        self._values, self._keys = np.empty(0, np.float32), np.empty(0)
        self._places, self._next_keys = np.empty(0, np.int64), np.empty(0)
        self._draw(-1)

    @property
    def sample(self) -> NDArray[np.float32]:
        """Elements, ``(at most most,)``."""
        return self._values[self._least()]

    def add(self, values: Tensor) -> None:
        """Go on with elements ``(count,)``."""
        end = self._seen + len(values)
        while True:
            inside = int(np.searchsorted(self._places, end))
            places = torch.from_numpy(self._places[:inside] - self._seen).to(values.device)
            self._values = np.concatenate([self._values, values[places].cpu().numpy()])
            self._keys = np.concatenate([self._keys, self._next_keys[:inside]])
            if inside < len(self._places):
                break
            last = int(self._places[-1])
            self._drop()
            self._draw(last)
        self._places, self._next_keys = self._places[inside:], self._next_keys[inside:]
        self._seen = end

    def _draw(self, last: int) -> None:
        """Draw the next places, behind the last one, whose keys are below the bound."""
        count = max(self.most, 1)  # all of them wait in memory
        self._places = last + np.cumsum(self._random.geometric(self._bound, count))
        self._next_keys = self._random.random(count) * self._bound

    def _drop(self) -> None:
        """Forget what is out of the sample for good."""
        least = self._least()
        self._values, self._keys = self._values[least], self._keys[least]
        if len(least) == self.most:
            self._bound = float(self._keys.max())

    def _least(self) -> NDArray[np.intp]:
        if len(self._keys) <= self.most:
            return np.arange(len(self._keys))
        return np.sort(np.argpartition(self._keys, self.most - 1)[: self.most])


class Histogram:
    """Counts in bins of equal width, as many below 0 as above; exact, as the width is a power of two.

    For a value out of reach the width is doubled, and neighbours are joined.

    Attributes:
        counts: ``(2 * BINS,)``; bin ``BINS + j`` holds ``j <= x / width < j + 1``, but for zeros.
        zeros: Elements that are 0: they are exact in codes of any scale.
    """

    BINS = 2**13

    def __init__(self) -> None:
        self.counts = np.zeros(2 * self.BINS, np.int64)
        self.zeros = 0
        self._exponent = _LEAST_EXPONENT

    @property
    def width(self) -> float:
        """Of a bin, in units of the values; at most 2 / BINS of the largest magnitude."""
        return math.ldexp(1.0, self._exponent) / self.BINS

    def add(self, values: Tensor, *, reach: float) -> None:
        """Count finite elements ``(count,)`` whose magnitude is ``reach`` at most."""
        exponent = math.frexp(reach)[1]  # reach < 2**exponent
        if reach and exponent > self._exponent:
            self._widen(exponent)
        for part in values.split(_AT_ONCE):
            places = (part / self.width).floor_().long() + self.BINS
            zeros = int((part == 0).sum())
            self.counts += torch.bincount(places, minlength=2 * self.BINS).cpu().numpy()
            self.counts[self.BINS] -= zeros
            self.zeros += zeros

    def _widen(self, exponent: int) -> None:
        most = self.BINS.bit_length() - 1  # then all is within one bin on each side
        joined = self.counts.reshape(-1, 2 ** min(exponent - self._exponent, most)).sum(1)
        self._exponent = exponent
        self.counts = np.zeros(2 * self.BINS, np.int64)
        start = self.BINS - len(joined) // 2
        self.counts[start : start + len(joined)] = joined
