"""Runs: calls of ``mpqtool.quantize``, whose run directories are kept, and what came of them."""

from __future__ import annotations

__all__ = ["NETWORK", "REASONS", "Bench", "Run"]

import dataclasses
import functools
import pathlib
from collections import Counter
from collections.abc import Iterable
from typing import Any

import numpy as np
import onnx
from common import runs

from mpqtool import rundir
from mpqtool.data import load_data
from mpqtool.report.log import read
from mpqtool.zoo.resnet import CifarResNet

from .arms import Arm, Budget

REASONS = ("oscillation", "bound", "stall", "budget")
"""The rules that settle a width."""
_BLOCKS, _WIDTH = 1, 8
"""Blocks of a stage and channels of the first one: half of the usual channels."""
NETWORK = f"ResNet-{6 * _BLOCKS + 2}"
_GIGA = 1e9
_FLOAT_BITS = 32


@dataclasses.dataclass(frozen=True, kw_only=True)
class Run:
    """What came of one run.

    Attributes:
        seed: The seed.
        log: The file of its events.
        weights: Mean bits of the weights between the first and the last layer.
        activations: Mean bits of what these layers multiply, over their multiply-accumulates.
        product: Mean of the products of both, over their multiply-accumulates: the hardware term ``bitops``.
        bitops: In units of 1e9, of all layers.
        wcr: Compression rate of the weights, as the paper counts it.
        integer: Top-1 of the integer file on the test images, in percent.
        fake_quant: The same of the network that was trained.
        float_accuracy: The same of the float network.
        float_bitops: BitOPs of the float network, of 32 bits each.
        reasons: How many widths a rule settled, by kind and rule.
        is_settled: Whether each width was, of weights and activations, by a rule that has a name.
        minutes: What it took.
    """

    seed: int
    log: pathlib.Path
    weights: float
    activations: float
    product: float
    bitops: float
    wcr: float
    integer: float
    fake_quant: float
    float_accuracy: float
    float_bitops: float
    reasons: Counter[tuple[str, str]]
    is_settled: bool
    minutes: float

    @property
    def to_float(self) -> float:
        """Points that the integer file has more than the float network."""
        return self.integer - self.float_accuracy


class Bench:
    """What all runs share, and those that are there.

    Args:
        data: Folder with the IDX files.
        out: Where float networks and run directories are kept.
        budget: How much is trained.
    """

    def __init__(self, data: str, out: pathlib.Path, budget: Budget) -> None:
        self.budget = budget
        shape = f"{budget.epochs}x{budget.samples}_batch{budget.batch}"
        self.out = out / f"resnet{6 * _BLOCKS + 2}_{_WIDTH}_float{budget.float_epochs}_{shape}"
        self.out.mkdir(parents=True, exist_ok=True)
        self.spec = f"idx:{data}"
        if budget.images is not None:
            self.spec = runs.fewer(self.spec, budget.images, self.out / "few.npz")
        self._runs: dict[tuple[Arm, int], Run] = {}

    @functools.cached_property
    def float_file(self) -> pathlib.Path:
        """The float network as an ONNX file; trained where it is not there yet."""
        return runs.float_network(
            self.out / "float.onnx", functools.partial(CifarResNet, _BLOCKS, width=_WIDTH, in_channels=1),
            lambda: load_data(self.spec).train, epochs=self.budget.float_epochs, label=NETWORK,
        )  # fmt: skip

    @functools.cached_property
    def _inner_inputs(self) -> int:
        """How many values the layers between the first and the last one multiply; some share theirs."""
        nodes = onnx.load(self.float_file, load_external_data=False).graph.node
        return len({node.input[0] for node in [n for n in nodes if n.op_type in ("Conv", "Gemm")][1:-1]})

    def folder(self, arm: Arm, seed: int) -> pathlib.Path:
        """The run directory."""
        start = "scratch" if arm.from_scratch else "tuned"
        return self.out / f"{arm.granularity}_{arm.hardware}_{arm.lambda_:g}_{start}_seed{seed}"

    def find(self, arm: Arm, seed: int) -> Run | None:
        """What a run gave; None: it is yet to be made, or was made with other settings."""
        if (arm, seed) not in self._runs:
            folder = self.folder(arm, seed)
            result = runs.find(folder, self.float_file, self._options(arm, seed))
            if result is None:
                return None
            self._runs[arm, seed] = _run(result, arm, folder / rundir.LOG, inputs=self._inner_inputs)
        return self._runs[arm, seed]

    def make(self, arm: Arm, seed: int) -> Run:
        """Make a run, or go on with one that was killed."""
        runs.make(self.folder(arm, seed), self.float_file, self.spec, self._options(arm, seed))
        run = self.find(arm, seed)
        assert run is not None  # it was made with these settings
        return run

    def runs(self, arms: Iterable[Arm]) -> dict[Arm, list[Run]]:
        """The runs of some arms, on the seeds that all have; of arms without runs, none."""
        rows = {arm: {s: run for (found, s), run in self._runs.items() if found == arm} for arm in arms}
        begun = [set(found) for found in rows.values() if found]
        shared = sorted(set.intersection(*begun)) if begun else []
        return {arm: [found[s] for s in shared] if found else [] for arm, found in rows.items()}

    def _options(self, arm: Arm, seed: int) -> dict[str, Any]:
        budget = self.budget
        return {
            "method": "adaqat", **dataclasses.asdict(arm), "seed": seed, "epochs": budget.epochs_of(arm),
            "epoch_samples": budget.samples, "batch_size": budget.batch,
        }  # fmt: skip


def _run(result: dict[str, Any], arm: Arm, log: pathlib.Path, *, inputs: int) -> Run:
    inner, metric, cost = result["bits"]["layers"][1:-1], result["metric"], result["cost"]
    kernels = [{int(bits): count for bits, count in row["weight_bits"].items()} for row in inner]
    weights = [sum(b * n for b, n in found.items()) / sum(found.values()) for found in kernels]
    activations, macs = [row["activation_bits"] for row in inner], [row["macs"] for row in inner]
    last = {(row.kind, row.variable): row for row in read(log).frozen}
    reasons = Counter((row.kind, row.reason) for row in last.values())
    expected = {
        "network": {"weights": 1, "activations": 1},
        "layer": {"weights": len(inner), "activations": inputs},
        "kernel": {
            "weights": sum(n for found in kernels for bits, n in found.items() if bits),
            "activations": inputs,
        },
    }[arm.granularity]
    if arm.hardware == "size":  # in which activations have no part
        del expected["activations"]
    settled = Counter(row.kind for row in last.values() if row.reason in REASONS)
    return Run(
        seed=result["seed"],
        log=log,
        weights=_FLOAT_BITS / cost["wcr"],
        activations=float(np.average(activations, weights=macs)),
        product=float(np.average(np.multiply(weights, activations), weights=macs)),
        bitops=cost["bitops"] / _GIGA,
        wcr=cost["wcr"],
        integer=metric["integer"],
        fake_quant=metric["fake_quant"],
        float_accuracy=metric["float"],
        float_bitops=cost["macs"] * _FLOAT_BITS**2 / _GIGA,
        reasons=reasons,
        is_settled=settled == expected,
        minutes=result["time_s"]["total"] / 60,
    )
