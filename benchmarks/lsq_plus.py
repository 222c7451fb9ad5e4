"""The relations between the rows of tables 2 to 6 of the LSQ+ paper, on Fashion-MNIST with a small network.

    python benchmarks/lsq_plus.py --data DIR [--out build/lsq_plus] [--only E1 E3] [--minutes 30]
    python benchmarks/lsq_plus.py --data DIR --write docs/results.md
    python benchmarks/lsq_plus.py --data DIR --quick

DIR holds the four IDX files (Debian: ``dpkg -L dataset-fashion-mnist`` says where). Every finished run is a
line of ``runs.jsonl`` in ``--out``: kill it and start it again, and it goes on behind the last one.

The float network is trained once for each activation function. Every arm starts from it, with one scale
for the weights of a layer, as in the paper, and with the first and the last layer at 8 bits, as is usual; it
sees the same images in the same order as the other arms of its seed. Accuracy is that of the fake-quantized
network on the test images.

Source: Y. Bhalgat et al., LSQ+: Improving low-bit quantization through learnable offsets and better
initialization, CVPR workshops 2020.
"""

from __future__ import annotations

import argparse
import json
import pathlib
import time
from collections.abc import Iterator
from typing import Any

import torch
from common.page import replace_section
from relations.arms import Arm, Budget, Experiment, Runs
from relations.plot import picture
from relations.tables import lsq_plus_relations, lsq_plus_tables
from relations.train import CHANCE, Bench, run_arm

import mpqtool

EXPERIMENTS = {
    "E1": Experiment(tuple(Arm(config=c, bits=b) for b in (2, 3, 4) for c in (1, 2, 3, 4)), seeds=3),
    "E2": Experiment(tuple(Arm(activation="relu", config=c) for c in (1, 2, 3, 4)), seeds=3),
    "E3": Experiment(tuple(Arm(init=init) for init in ("minmax", "lsq", "lsq+")), seeds=5),
    "E4": Experiment((Arm(config=1, bits=4), Arm(bits=4, offset="x_min"), Arm(bits=4)), seeds=5),
}
"""Tables 2 and 3, 4, 5, and 6 of the paper. What two of them share is run once."""

BUDGET = Budget(
    float_epochs=3, float_samples=58_000, epochs=2, samples=8_000, batch=64, lr=0.005, test=10_000
)
QUICK = Budget(float_epochs=1, float_samples=2560, epochs=1, samples=640, batch=64, lr=0.005, test=500)
DEPLOYED = Arm(config=4, bits=2)
"""The arm that is taken to an integer file as well."""

_CAPTION = "Accuracy by width and configuration; errors at the start and accuracy by initialization"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", required=True, help="folder with the four IDX files")
    parser.add_argument("--out", type=pathlib.Path, default=pathlib.Path("build/lsq_plus"))
    parser.add_argument("--only", nargs="+", choices=EXPERIMENTS, default=list(EXPERIMENTS))
    parser.add_argument("--seeds", type=int, help="at most so many seeds")
    parser.add_argument("--minutes", type=float, default=float("inf"), help="begin no run after that")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--quick", action="store_true", help="one seed, next to no training: does it work?")
    parser.add_argument(
        "--write", type=pathlib.Path, help="page with a section between <!-- lsq_plus --> marks"
    )
    arguments = parser.parse_args()
    if arguments.quick and arguments.write:
        parser.error("--quick measures nothing that is worth writing down; leave --quick or --write out")
    torch.set_num_threads(arguments.threads)
    arguments.out.mkdir(parents=True, exist_ok=True)
    budget = QUICK if arguments.quick else BUDGET
    bench, runs = Bench(arguments.data, arguments.out, budget), Runs(arguments.out / "runs.jsonl", budget)

    wanted = list(_wanted(arguments.only, 1 if arguments.quick else arguments.seeds))
    if not _train(bench, runs, [run for run in wanted if run not in runs], arguments.minutes):
        print("out of time: start it again for the rest")
    floats = {activation: bench.float_accuracy(activation) for activation in ("swish", "relu")}
    text = _section(runs, floats, _deployed(bench))
    print(text)
    if arguments.write:
        picture_file = arguments.write.with_name("lsq_plus.svg")
        picture_file.write_text(picture(runs, floats["swish"]))
        replace_section(arguments.write, "lsq_plus", f"{text}\n\n![{_CAPTION}]({picture_file.name})")


def _wanted(names: list[str], seeds: int | None) -> Iterator[tuple[Arm, int]]:
    """Every run of some experiments, once; all arms of a seed before the next seed."""
    chosen = [EXPERIMENTS[name] for name in names]
    most = max(experiment.seeds for experiment in chosen)
    every = (
        (arm, s) for s in range(min(most, seeds or most)) for e in chosen if s < e.seeds for arm in e.arms
    )
    return iter(dict.fromkeys(every))


def _train(bench: Bench, runs: Runs, missing: list[tuple[Arm, int]], minutes: float) -> bool:
    """Make the runs that are missing; whether there was time for all."""
    for activation in sorted({arm.activation for arm, _ in missing}):
        bench.float_file(activation)
    began = time.monotonic()
    for done, (arm, seed) in enumerate(missing):
        spent = (time.monotonic() - began) / 60
        if spent > minutes:
            return False
        result = run_arm(bench, arm, seed)
        runs.add(arm, seed, result)
        spent = (time.monotonic() - began) / 60
        left = spent / (done + 1) * (len(missing) - done - 1)
        place, accuracy = f"{done + 1:3}/{len(missing)}", f"{result['accuracy']:.2f} %"
        print(f"{place}  {arm}, seed {seed}: {accuracy}  {left:.0f} min left", flush=True)
    return True


def _deployed(bench: Bench) -> dict[str, Any]:
    """What a user gets of one arm, on seed 0: an integer file, and the proof that it computes the same."""
    out, budget = bench.out / f"deployed_{bench.budget.samples}", bench.budget
    if not (out / "result.json").exists():
        mpqtool.quantize(
            bench.float_file(DEPLOYED.activation),
            method="lsq+",
            data=bench.spec,
            out=out,
            bits=f"W{DEPLOYED.bits}A{DEPLOYED.bits}",
            config=str(DEPLOYED.config),
            weight_scales="layer",
            epochs=budget.epochs,
            epoch_samples=budget.samples,
            batch_size=budget.batch,
            lr=budget.lr,
        )
    found: dict[str, Any] = json.loads((out / "result.json").read_text())
    return found


def _section(runs: Runs, floats: dict[str, float], deployed: dict[str, Any]) -> str:
    """All that is to say of the runs, in Markdown."""
    metric, verify = deployed["metric"], deployed["verify"]
    lines = [
        lsq_plus_tables(runs, floats),
        "",
        "| | relation in the paper | here | |",
        "| --- | --- | --- | --- |",
        *map(str, lsq_plus_relations(runs)),
        "",
        f"Runs that diverged, and count as {CHANCE:g} %: {runs.diverged}.",
        "",
        f"One arm as a user gets it, from `mpqtool quantize` ({DEPLOYED}, seed 0, a fifth of the steps in "
        f"integers): fake-quant {metric['fake_quant']:.2f} %, integer file {metric['integer']:.2f} %, "
        f"{verify['codes_compared']:,} codes compared, {verify['codes_different']} different.",
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    main()
