"""Scalars whose squared gradients add up to a noise gain, over classes or over all outputs."""

from __future__ import annotations

__all__ = ["ClassSums", "OutputSums", "generators", "signs"]

import dataclasses
import math
from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch import Tensor


def generators(count: int, *seed: int) -> list[torch.Generator]:
    """Generators of signs, independent of each other."""
    numbers = np.random.SeedSequence(seed).generate_state(count, np.uint64) >> 1
    return [torch.Generator().manual_seed(int(number)) for number in numbers]


def signs(like: Tensor, generator: torch.Generator) -> Tensor:
    """Draw 1 and -1 in the order of samples: one generator gives the same, however they are divided."""
    return (torch.randint(0, 2, like.shape, generator=generator) * 2 - 1).to(like)


@dataclasses.dataclass(frozen=True)
class ClassSums:
    """Scalars whose squared gradients, added up, are the sum over classes.

    Attributes:
        sums: ``signs``, ``ranks`` or ``runner-up``; see ``sample_gains``.
        ranks: How many; None: all.
        floor: What margins count as at least; 0: ties are skipped.
        generators: One for each set of signs.
    """

    sums: str
    ranks: int | None
    floor: float
    generators: Sequence[torch.Generator]

    def scalars(self, outputs: Sequence[Tensor]) -> Iterator[Tensor]:
        logits = outputs[0]
        order = logits.argsort(dim=1, descending=True, stable=True)
        difference = logits - logits.gather(1, order[:, :1])
        margin = -difference.detach().clamp(max=-self.floor)
        relative = difference * torch.where(margin > 0, 1 / margin, 0.0)  # without a floor, ties are skipped
        if self.sums == "signs":
            for generator in self.generators:
                yield (signs(relative, generator) * relative).sum()
            return
        most = 1 if self.sums == "runner-up" else self.ranks or logits.shape[1]
        for rank in range(1, min(most + 1, logits.shape[1])):
            yield relative.gather(1, order[:, rank : rank + 1]).sum()


@dataclasses.dataclass(frozen=True)
class OutputSums:
    """Scalars of the Fisher form: all outputs, by random signs, in units of their power.

    Attributes:
        powers: Mean square of each output.
        generators: For each set of signs one by output.
    """

    powers: Sequence[float]
    generators: Sequence[Sequence[torch.Generator]]

    def scalars(self, outputs: Sequence[Tensor]) -> Iterator[Tensor]:
        for of_outputs in self.generators:
            parts = [
                (signs(out, generator) * out).sum() / math.sqrt(power)
                for out, power, generator in zip(outputs, self.powers, of_outputs, strict=True)
                if out.requires_grad
            ]
            yield torch.stack(parts).sum()
