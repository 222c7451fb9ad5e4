"""One step of the training: its batch, the loss of that, and what looks on."""

from __future__ import annotations

__all__ = ["Batch", "Observer", "TaskLoss", "relative_error", "task_loss"]

import dataclasses
from collections.abc import Callable, Sequence
from typing import Protocol

import torch
from torch import Tensor
from torch.nn import functional as F

_TEMPERATURE, _DISTILL_SHARE = 4.0, 0.9
"""Distillation: ``(1 - a) * CE + a * T**2 * KL`` with a = 0.9, T = 4 (a = 1 without labels)."""


@dataclasses.dataclass(frozen=True)
class Batch:
    """What one process computes a loss of.

    Attributes:
        inputs: In graph order, ``(batch, ...)``.
        labels: Class indices, ``(batch,)``, or what a loss of the user takes, ``(batch, ...)``; None: learn
            from the teacher alone.
        taught: What the teacher gives for the inputs; None: there is no teacher.
    """

    inputs: Sequence[Tensor]
    labels: Tensor | None
    taught: Sequence[Tensor] | None


TaskLoss = Callable[[Sequence[Tensor], Batch], Tensor]
"""Gives the mean loss over a batch, ``()``, of a network's outputs in graph order."""


class Observer(Protocol):
    """What looks on while a network is trained: at the last batch of each step."""

    def before_forward(self, batch: Batch) -> None:
        """Called before the network sees the batch; random numbers drawn here would change the training."""

    def before_step(self, loss: Tensor) -> dict[str, object]:
        """Called with the loss of the batch, ``()``, before the optimizer's step; gives progress columns."""


def task_loss(outputs: Sequence[Tensor], batch: Batch) -> Tensor:
    """The mean loss over a batch, ``()``: cross entropy, or what is left to the teacher's outputs.

    Args:
        outputs: Of the network, in graph order; class logits are one of shape ``(batch, classes)``.
        batch: What they are outputs of.
    """
    logits, taught = outputs[0], batch.taught
    hard = None if batch.labels is None else F.cross_entropy(logits, batch.labels)
    if taught is None:
        assert hard is not None  # without a teacher there are labels
        return hard
    if logits.ndim != 2 or len(outputs) != 1:
        return relative_error(outputs, batch)
    soft = _TEMPERATURE**2 * F.kl_div(
        F.log_softmax(logits / _TEMPERATURE, 1),
        F.log_softmax(taught[0] / _TEMPERATURE, 1),
        log_target=True,
        reduction="batchmean",
    )
    return soft if hard is None else (1 - _DISTILL_SHARE) * hard + _DISTILL_SHARE * soft


def relative_error(outputs: Sequence[Tensor], batch: Batch) -> Tensor:
    """The squared distance to the teacher, ``()``, each output in units of its own power: no class logits."""
    assert batch.taught is not None
    errors = [
        F.mse_loss(y, t) / t.square().mean().clamp(min=1e-12)
        for y, t in zip(outputs, batch.taught, strict=True)
    ]
    return torch.stack(errors).sum()
