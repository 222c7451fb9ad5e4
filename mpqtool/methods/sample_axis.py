"""Where the samples of a batch are in a value: before its first axis there may be others."""

from __future__ import annotations

__all__ = ["by_sample", "distinct", "samples_before"]

import math
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from mpqtool.errors import UnsupportedOpError

_NOISE = 1e-5
"""Of the largest magnitude: what two runs of the same may differ by, where sums have no fixed order."""


def by_sample(x: Tensor, before: int | None, samples: int, trailing: int) -> Tensor:
    """Bring the samples to the front, ``(samples, rows of a sample, *trailing)``.

    What does not depend on samples is of all of them, and comes as the rows of one.

    Args:
        x: ``(*leading, *trailing)``; rows are what the leading axes tell apart.
        before: What ``samples_before`` found.
        samples: Of the batch.
        trailing: Number of axes that belong to a row.
    """
    rows = x.reshape(-1, *x.shape[x.ndim - trailing :])
    if before is None or len(rows) % (before * samples):
        return rows[None]
    return rows.reshape(before, samples, -1, *rows.shape[1:]).transpose(0, 1).flatten(1, 2)


def distinct(batch: Sequence[Tensor]) -> list[Tensor] | None:
    """Two samples ``(a, b)`` that are not the same; None if there are none."""
    for other in range(1, len(batch[0])):
        if any(not torch.equal(x[0], x[other]) for x in batch):
            return [x[[0, other]] for x in batch]
    return None


def samples_before(name: str, both: Tensor, second: Tensor, first: Tensor, trailing: int) -> int | None:
    """How many rows of each other sample lie between two of one; as a divisor of the rows before the samples.

    Reshape and Transpose keep rows ``(before, samples, after)``: 1 before them for blocks, one block for each
    sample, and the length of a sequence for rows that a Transpose to sequence-first has interleaved. A row
    that changes with a sample is that sample's.

    Args:
        name: For the message.
        both: The value for two samples ``(a, b)``.
        second: For ``(b, b)``.
        first: For ``(a, a)``.
        trailing: Number of axes that belong to a row.

    Returns:
        Rows before the axis of the samples; None: the value does not depend on them.

    Raises:
        UnsupportedOpError: No axis tells the samples apart.
    """
    of_a, of_b = _changed(both, second), _changed(both, first)
    if not (of_a.any() or of_b.any()):
        return None
    for before in sorted(set(_candidates(both.shape[: both.ndim - trailing]))):
        a, b = (by_sample(changed, before, 2, trailing) for changed in (of_a, of_b))
        if not (a[1].any() or b[0].any()):
            return before
    raise UnsupportedOpError(
        f"No gradient by sample is known at {name!r}, of shape {tuple(both.shape)} for two samples: no axis "
        "tells the samples apart. Cut the part that mixes them off the model."
    )


def _changed(x: Tensor, other: Tensor) -> Tensor:
    return (x - other).abs() > _NOISE * x.abs().nan_to_num(0, 0, 0).amax()


def _candidates(shape: Sequence[int]) -> Iterator[int]:
    """Rows before an axis for two samples, or before some part of an axis that holds more than them."""
    for axis, length in enumerate(shape):
        if length % 2 == 0:
            half = length // 2
            yield from (math.prod(shape[:axis]) * outer for outer in range(1, half + 1) if half % outer == 0)
