"""What is compared, and where finished runs are kept."""

from __future__ import annotations

__all__ = ["Arm", "Budget", "Experiment", "Runs"]

import dataclasses
import json
import pathlib
from collections.abc import Iterable
from typing import Any


@dataclasses.dataclass(frozen=True, kw_only=True)
class Arm:
    """One way to quantize a network.

    Attributes:
        activation: The activation function of the network, ``swish`` or ``relu``.
        config: The parametrization of activations; LSQ+, table 1.
        bits: Width of weights and activations.
        init: Where scales and offsets start from.
        offset: ``learned``, or ``x_min``: fixed at the smallest value.
    """

    activation: str = "swish"
    config: int = 4
    bits: int = 2
    init: str = "lsq+"
    offset: str = "learned"

    def __str__(self) -> str:
        words = [self.activation, f"W{self.bits}A{self.bits}", f"config {self.config}", f"init {self.init}"]
        return ", ".join(words if self.offset == "learned" else [*words, f"offset {self.offset}"])


@dataclasses.dataclass(frozen=True)
class Experiment:
    """Arms that are compared, on so many seeds."""

    arms: tuple[Arm, ...]
    seeds: int


@dataclasses.dataclass(frozen=True, kw_only=True)
class Budget:
    """How much is trained: the float network, and every arm from it.

    Attributes:
        float_epochs: Epochs of the float network.
        float_samples: Images of one of them.
        epochs: Epochs of an arm.
        samples: Images of one of them, drawn by the seed.
        batch: Images of a step.
        lr: Peak learning rate.
        test: Images that accuracy is measured on.
    """

    float_epochs: int
    float_samples: int
    epochs: int
    samples: int
    batch: int
    lr: float
    test: int


class Runs:
    """Finished runs: a file of JSON lines.

    Args:
        path: The file; need not exist.
        budget: Runs of another one are passed over.
    """

    def __init__(self, path: pathlib.Path, budget: Budget) -> None:
        self.path, self.budget = path, dataclasses.asdict(budget)
        lines = path.read_text().splitlines() if path.exists() else []
        rows = [row for row in map(json.loads, lines) if row["budget"] == self.budget]
        self._found = {(Arm(**row["arm"]), row["seed"]): row for row in rows}

    def __contains__(self, run: tuple[Arm, int]) -> bool:
        return run in self._found

    def add(self, arm: Arm, seed: int, result: dict[str, Any]) -> None:
        row = {"arm": dataclasses.asdict(arm), "seed": seed, "budget": self.budget, **result}
        self._found[arm, seed] = row
        with self.path.open("a") as file:
            file.write(json.dumps(row) + "\n")

    @property
    def diverged(self) -> int:
        """How many of them did."""
        return sum(row["diverged"] for row in self._found.values())

    def values(self, arms: Iterable[Arm], key: str = "accuracy") -> dict[Arm, list[float]]:
        """One number of each run of some arms, on the seeds that all have; of arms without runs, none."""
        rows = {arm: {s: row for (found, s), row in self._found.items() if found == arm} for arm in arms}
        begun = [set(found) for found in rows.values() if found]
        shared = sorted(set.intersection(*begun)) if begun else []
        return {arm: [found[s][key] for s in shared] if found else [] for arm, found in rows.items()}
