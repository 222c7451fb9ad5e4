"""What a network gives for the samples that gains are averaged over."""

from __future__ import annotations

__all__ = ["Answers", "chunked", "evaluating", "look", "smallest_margins"]

import contextlib
import dataclasses
import math
from collections.abc import Iterable, Iterator, Sequence

import torch
from torch import Tensor, nn

from mpqtool.metrics import is_logits

from .per_sample import Tape

_FLOOR_QUANTILE = 0.05
_CHUNK = 32
"""Samples of one backward pass: what bounds the memory."""


@dataclasses.dataclass(frozen=True)
class Answers:
    """The outputs for all samples, as far as gains depend on them.

    Attributes:
        logits: Class logits, ``(samples, classes)``, on the CPU; None where there are none.
        powers: Mean square of each output.
        shapes: Of the outputs for some of the samples.
    """

    logits: Tensor | None
    powers: Sequence[float]
    shapes: Sequence[tuple[int, ...]]

    @property
    def floor(self) -> float:
        """The 5th percentile of the smallest margin, at least a thousandth of the logits' spread."""
        assert self.logits is not None  # else there are no margins
        quantile = float(smallest_margins(self.logits).quantile(_FLOOR_QUANTILE))
        return max(quantile, 1e-3 * float(self.logits.std()), 1e-12)


def look(tape: Tape, chunks: Sequence[Sequence[Tensor]]) -> Answers:
    """Run all samples, without gradients."""
    logits: list[Tensor] = []
    squares: dict[int, list[float]] = {}
    numbers: dict[int, int] = {}
    shapes: list[tuple[int, ...]] = []
    for chunk in chunks:
        with torch.no_grad():
            outputs = tape.record(chunk)
        shapes = shapes or [tuple(out.shape) for out in outputs]
        if is_logits([out.shape for out in outputs]):
            logits.append(outputs[0].cpu())
        for place, out in enumerate(outputs):
            squares.setdefault(place, []).append(float(out.double().square().sum()))
            numbers[place] = numbers.get(place, 0) + out.numel()
    powers = [max(math.fsum(parts) / numbers[place], 1e-12) for place, parts in squares.items()]
    return Answers(torch.cat(logits) if logits else None, powers, shapes)


def chunked(batches: Iterable[Sequence[Tensor]]) -> list[tuple[Tensor, ...]]:
    """The samples of all batches, in parts of which the gradients fit in memory."""
    return [chunk for batch in batches for chunk in zip(*(x.split(_CHUNK) for x in batch), strict=True)]


def smallest_margins(logits: Tensor) -> Tensor:
    """Between the answer and the runner-up, ``(samples,)``."""
    top = logits.topk(2, dim=1).values
    return top[:, 0] - top[:, 1]


@contextlib.contextmanager
def evaluating(network: nn.Module) -> Iterator[None]:
    """A block in evaluation mode."""
    training = network.training
    network.eval()
    try:
        yield
    finally:
        network.train(training)
