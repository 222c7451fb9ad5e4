"""Runs of arms on networks, and what came of them."""

from __future__ import annotations

__all__ = ["Bench", "Point", "Run"]

import dataclasses
import pathlib
from typing import Any

from common import runs

from .arms import NETWORKS, Arm, Budget


@dataclasses.dataclass(frozen=True, kw_only=True)
class Point:
    """One accepted iteration of a search, before it is lowered to integers.

    Attributes:
        bits: Effective bits of the weights.
        accuracy: Top-1 on held-out images, in percent.
    """

    bits: float
    accuracy: float


@dataclasses.dataclass(frozen=True, kw_only=True)
class Run:
    """What came of one run.

    Attributes:
        weights: Effective bits of a weight, in the integer file.
        activations: Effective bits of an activation.
        integer: Top-1 of the integer file on the test images, in percent.
        to_float: Points that it has more than the float network.
        held_out: Top-1 on held-out images before lowering, in percent.
        cost: Computational cost C_C, in units of 1e9.
        bytes_weights: Bytes of weights in the integer file.
        bytes_float: Bytes of the float file.
        bytes_integer: Bytes of the integer file.
        different: Codes that ONNX Runtime gave otherwise than torch.
        points: The accepted iterations of a search by IMPQ.
        minutes: What it took.
    """

    weights: float
    activations: float
    integer: float
    to_float: float
    held_out: float
    cost: float
    bytes_weights: int
    bytes_float: int
    bytes_integer: int
    different: int
    points: tuple[Point, ...]
    minutes: float


class Bench:
    """What all runs share, and those that are there.

    Args:
        data: Folder with the IDX files.
        out: Where float networks and run directories are kept.
        budget: How much is trained.
    """

    def __init__(self, data: str, out: pathlib.Path, budget: Budget) -> None:
        self.budget, self.out = budget, out / f"{budget.samples}_batch{budget.batch}"
        self.spec = f"idx:{data}"
        self.floats = out / f"float_{budget.float_epochs}"
        if budget.images is not None:
            self.floats = self.out / "float"
            self.spec = runs.fewer(self.spec, budget.images, self.out / "few.npz")

    def float_file(self, network: str) -> pathlib.Path:
        """The float network; trained where it is not there yet."""
        return runs.float_network(
            self.floats / f"{_stem(network)}.onnx", NETWORKS[network], self.spec,
            epochs=self.budget.float_epochs, label=network,
        )  # fmt: skip

    def folder(self, network: str, arm: Arm) -> pathlib.Path:
        """The run directory."""
        return self.out / _stem(network) / arm.folder

    def find(self, network: str, arm: Arm) -> Run | None:
        """What a run gave; None: it is yet to be made, or was made with other options."""
        result = runs.find(self.folder(network, arm), self.float_file(network), self._options(arm))
        return None if result is None else _run(result)

    def make(self, network: str, arm: Arm) -> Run:
        """Make a run, or go on with one that was killed."""
        out, model = self.folder(network, arm), self.float_file(network)
        return _run(runs.make(out, model, self.spec, self._options(arm)))

    def _options(self, arm: Arm) -> dict[str, Any]:
        return {
            **arm.options, "epochs": arm.length, "epoch_samples": self.budget.samples,
            "batch_size": self.budget.batch, "seed": 0,
        }  # fmt: skip


def _stem(network: str) -> str:
    return network.lower().replace("-", "").replace("/", "_")


def _run(result: dict[str, Any]) -> Run:
    bits, metric, size = result["bits"], result["metric"], result["bytes"]
    rows = [row for row in result["history"] if row.get("phase") != "integers"]
    accepted = [row for row in rows if row.get("accepted")]
    points = tuple(
        Point(bits=row["weights_eff"], accuracy=row["held_out"]) for row in accepted if "weights_eff" in row
    )
    return Run(
        weights=bits["weights_eff"],
        activations=bits["activations_eff"],
        integer=metric["integer"],
        to_float=metric["integer"] - metric["float"],
        held_out=(accepted or rows)[-1]["held_out"],
        cost=result["cost"]["c_c"] / 1e9,
        bytes_weights=size["weights_stored"],
        bytes_float=size["float"],
        bytes_integer=size["integer"],
        different=result["verify"]["codes_different"],
        points=points,
        minutes=result["time_s"]["total"] / 60,
    )
