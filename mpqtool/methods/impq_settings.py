"""What a search of IMPQ may do, and where it is."""

from __future__ import annotations

__all__ = ["ImpqSettings", "State"]

import dataclasses
import math
from typing import Any

from .budgets import Budgets
from .reduction import ReductionSettings


@dataclasses.dataclass(frozen=True, kw_only=True)
class ImpqSettings:
    """What the search may do.

    Attributes:
        reduction: What loses bits in an iteration.
        budgets: Where to stop.
        first: The phase that comes first, of ``PHASES``.
        max_drop: Loss of the held-out metric, against the network of the start, that ends a phase.
        epochs: Epochs of fine-tuning in each iteration.
        lr: Peak learning rate.
        float_metric: The held-out metric of the float network; NaN where nothing compares with it.
    """

    reduction: ReductionSettings
    budgets: Budgets
    first: str = "weights"
    max_drop: float
    epochs: int
    lr: float
    float_metric: float


@dataclasses.dataclass
class State:
    """Where the search is; JSON, part of every checkpoint.

    Attributes:
        phase: ``start``, one of ``PHASES``, or ``done``.
        iteration: Its number, counted through all phases.
        in_phase: The same, counted in this phase.
        rollbacks: Iterations of this phase that were undone.
        eligible: Groups that had a bit to give when this phase began.
        barred: Groups of this phase that were refused alone: their next bit costs too much.
        taken: The groups that lost a bit in this iteration.
        caution: A factor of how far an iteration goes, halved by each of them.
        held_back: Whether a phase ended as fewer bits cost too much.
        reference: The held-out metric of the network of the start.
        turn: How many phases are over.
        reasons: Why, by phase; empty where its budgets are met.
        begun: What the network of the start uses of the budgets.
        told: Whether it was said that sensitivities are not of classes.
        history: One row per iteration.
    """

    phase: str = "start"
    iteration: int = 0
    in_phase: int = 0
    rollbacks: int = 0
    eligible: int = 0
    barred: list[str] = dataclasses.field(default_factory=list)
    taken: list[str] = dataclasses.field(default_factory=list)
    caution: float = 1.0
    held_back: bool = False
    reference: float = math.nan
    turn: int = 0
    reasons: dict[str, str] = dataclasses.field(default_factory=dict)
    begun: dict[str, float] = dataclasses.field(default_factory=dict)
    told: bool = False
    history: list[dict[str, Any]] = dataclasses.field(default_factory=list)
