"""Runs of arms on networks, and what came of them."""

from __future__ import annotations

__all__ = ["Bench", "Point", "Run", "stem"]

import dataclasses
import pathlib
from typing import Any

from common import runs

from mpqtool.data import load_data
from mpqtool.run_data import hold_out

from .arms import NETWORKS, SEED, Arm, Budget


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
        held_out: Top-1 on held-out images before lowering, in percent: of the last iteration that was
            accepted, or of the best epoch.
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
        self.floats = out / f"float_{budget.float_epochs}_held_out"
        if budget.images is not None:
            self.floats = self.out / "float"
            self.spec = runs.fewer(self.spec, budget.images, self.out / "few.npz")

    def find(self, network: str, arm: Arm) -> Run | None:
        """What a run gave; None: it is yet to be made, or was made with other options."""
        result = runs.find(self._folder(network, arm), self._float_file(network), self._options(arm))
        return None if result is None else _run(result)

    def make(self, network: str, arm: Arm) -> Run:
        """Make a run, or go on with one that was killed.

        The float network is trained where it is not there yet; not on the images that runs hold out: they
        are decided on by these, and it would know them by heart.
        """
        model = runs.float_network(
            self._float_file(network), NETWORKS[network],
            lambda: hold_out(load_data(self.spec).train, SEED)[0],
            epochs=self.budget.float_epochs, label=network,
        )  # fmt: skip
        return _run(runs.make(self._folder(network, arm), model, self.spec, self._options(arm)))

    def _float_file(self, network: str) -> pathlib.Path:
        return self.floats / f"{stem(network)}.onnx"

    def _folder(self, network: str, arm: Arm) -> pathlib.Path:
        return self.out / stem(network) / arm.folder

    def _options(self, arm: Arm) -> dict[str, Any]:
        return {
            **arm.options, "epochs": arm.length, "epoch_samples": self.budget.samples,
            "batch_size": self.budget.batch, "seed": SEED,
        }  # fmt: skip


def stem(network: str) -> str:
    """A network in names of files."""
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
        held_out=accepted[-1]["held_out"] if accepted else max(row["held_out"] for row in rows),
        cost=result["cost"]["c_c"] / 1e9,
        bytes_weights=size["weights_stored"],
        bytes_float=size["float"],
        bytes_integer=size["integer"],
        different=result["verify"]["codes_different"],
        points=points,
        minutes=result["time_s"]["total"] / 60,
    )
