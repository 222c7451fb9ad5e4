"""What the values of a model are like on data, channel by channel: what equalization asks for."""

from __future__ import annotations

__all__ = ["channel_maxima", "channel_statistics"]

from collections.abc import Collection, Iterator, Mapping
from typing import NamedTuple

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from mpqtool.passes.equalize import ChannelStatistics
from mpqtool.passes.values import all_values
from mpqtool.runtime.session import make_session

from .errors import ModelError

Arrays = Mapping[str, NDArray[np.float32]]

_AT_ONCE = 64
"""Samples of one run: what bounds the memory."""


def channel_maxima(model: ir.Model, names: Collection[str], inputs: Arrays) -> dict[str, NDArray[np.float32]]:
    """The largest number in each channel of some values, ``(channels,)``; for ``pipelines.equalize``.

    Args:
        model: A float model; left as it is.
        names: Values of it, with channels on axis 1.
        inputs: One array per input, ``(samples, ...)``.

    Raises:
        ModelError: A value has no axis 1.
    """
    maxima: dict[str, NDArray[np.float32]] = {}
    for name, rows in _rows(model, names, inputs):
        largest = rows.max(axis=1)
        maxima[name] = np.maximum(maxima.get(name, largest), largest)
    return maxima


def channel_statistics(
    model: ir.Model, names: Collection[str], inputs: Arrays
) -> dict[str, ChannelStatistics]:
    """Mean, standard deviation and minimum of each channel of some values; for ``pipelines.absorb_bias``.

    Batches are merged by the update of Chan, Golub and LeVeque, 1979, which does not lose digits where the
    mean is far from 0.

    Args:
        model: A float model; left as it is.
        names: Values of it, with channels on axis 1.
        inputs: One array per input, ``(samples, ...)``.

    Raises:
        ModelError: A value has no axis 1.
    """
    seen: dict[str, _Moments] = {}
    for name, rows in _rows(model, names, inputs):
        mean = rows.mean(axis=1, dtype=np.float64)
        squares = np.square(rows - mean[:, None]).sum(axis=1)
        found = _Moments(rows.shape[1], mean, squares, rows.min(axis=1))
        seen[name] = seen[name].merged(found) if name in seen else found
    return {
        name: ChannelStatistics(s.mean, np.sqrt(s.squares / s.numbers), s.minimum) for name, s in seen.items()
    }


class _Moments(NamedTuple):
    """Of some numbers, channel by channel: how many, mean, squared distances from it, minimum."""

    numbers: int
    mean: NDArray[np.float64]
    squares: NDArray[np.float64]
    minimum: NDArray[np.float32]

    def merged(self, other: _Moments) -> _Moments:
        total, away = self.numbers + other.numbers, other.mean - self.mean
        return _Moments(
            total,
            self.mean + away * other.numbers / total,
            self.squares + other.squares + np.square(away) * self.numbers * other.numbers / total,
            np.minimum(self.minimum, other.minimum),
        )


def _rows(
    model: ir.Model, names: Collection[str], inputs: Arrays
) -> Iterator[tuple[str, NDArray[np.float32]]]:
    """By batch and value: all numbers of each channel, ``(channels, samples * positions)``."""
    if not names:
        return
    model = model.clone()
    outputs = {str(value.name) for value in model.graph.outputs}
    by_name = {str(value.name): value for value in all_values(model.graph)}
    model.graph.outputs.extend(by_name[name] for name in names if name not in outputs)
    session = make_session(ir.to_proto(model).SerializeToString())
    samples = len(next(iter(inputs.values())))
    for start in range(0, samples, _AT_ONCE):
        feeds = {name: array[start : start + _AT_ONCE] for name, array in inputs.items()}
        for name, array in zip(names, session.run(list(names), feeds), strict=True):
            if array.ndim < 2:
                raise ModelError(
                    f"Cannot measure the channels of {name!r}: its shape is {list(array.shape)}, allowed are "
                    "shapes with samples on axis 0 and channels on axis 1. Leave the value out."
                )
            yield name, np.moveaxis(array, 1, 0).reshape(array.shape[1], -1)
