"""Samples in memory."""

from __future__ import annotations

__all__ = ["Data", "Shape", "Split", "input_name"]

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mpqtool.errors import DataError

Shape = Sequence[int | None]


@dataclasses.dataclass(frozen=True)
class Split:
    """Samples for training or for testing.

    Attributes:
        inputs: One array per model input, in graph order, shape ``(samples, ...)``, float32.
        labels: Class of each sample, shape ``(samples,)``, int64, or what else a metric or loss of the user
            takes, ``(samples, ...)``; None where there are none.
    """

    inputs: dict[str, NDArray[np.float32]]
    labels: NDArray[Any] | None = None

    def __len__(self) -> int:
        return len(next(iter(self.inputs.values()))) if self.inputs else 0

    def batches(self, size: int) -> Iterator[dict[str, NDArray[np.float32]]]:
        """Give the inputs in order, ``size`` samples at a time; the last batch may be smaller."""
        for start in range(0, len(self), size):
            yield {name: array[start : start + size] for name, array in self.inputs.items()}


@dataclasses.dataclass(frozen=True)
class Data:
    """What a spec stands for.

    Attributes:
        spec: The spec as it was given.
        train: Samples to learn from.
        test: Samples to measure on.
        held_out: Whether ``test`` was taken from the end of the only split there was.
        synthetic: Whether the inputs were made from the model alone: nothing measured on them is an accuracy.
        class_labels: Whether labels, if there are any, are class indices that fit the model.
    """

    spec: str
    train: Split
    test: Split
    held_out: bool = False
    synthetic: bool = False
    class_labels: bool = True


def input_name(spec: str, inputs: Mapping[str, Shape] | None) -> str:
    """Name the input that pictures are for: the model's only one, ``x`` if there is no model.

    Raises:
        DataError: The model has several inputs.
    """
    if inputs is None:
        return "x"
    if len(inputs) != 1:
        raise DataError(
            f"{spec!r} holds pictures for one input and the model has {len(inputs)}: {', '.join(inputs)}; "
            "use an .npz file with an array for each"
        )
    return next(iter(inputs))
