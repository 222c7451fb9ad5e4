"""Tables III and I of the AdaQAT paper in relation, and finer widths, on Fashion-MNIST with a ResNet-8.

    python benchmarks/adaqat.py --data DIR [--out build/adaqat] [--seeds 0 1] [--minutes 30]
    python benchmarks/adaqat.py --data DIR --write docs/results.md
    python benchmarks/adaqat.py --data DIR --quick

DIR holds the four IDX files (Debian: ``dpkg -L dataset-fashion-mnist`` says where). Every run is one of
``mpqtool quantize --method adaqat``, and its directory is kept in ``--out``: kill it and start it again, and
it goes on behind the last epoch. Two of these may run side by side, on seeds of their own.

The float network is trained once, and every run starts from it, or from its architecture: from scratch, for
three times the epochs, as is the default of the method. Accuracy is that of the integer file on the test
images.

Source: C. Gernigon et al., AdaQAT: Adaptive bit-width quantization-aware training, AICAS 2024.
"""

from __future__ import annotations

import argparse
import pathlib
import time

import torch
from common.page import draw, replace_section
from widths.arms import Arm, Budget
from widths.pictures import accuracy_over_bitops, widths_over_steps
from widths.runs import NETWORK, Bench
from widths.tables import ARMS, adaqat_tables
from widths.verdicts import adaqat_relations

BUDGET = Budget(float_epochs=4, epochs=5, longer=3, samples=12_000, batch=64)
QUICK = Budget(float_epochs=1, epochs=1, longer=1, samples=640, batch=16, images=(1600, 200))
SEEDS = (0, 1)
DRAWN = Arm()
"""The arm whose widths are drawn over its steps, on its first seed."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", required=True, help="folder with the four IDX files")
    parser.add_argument("--out", type=pathlib.Path, default=pathlib.Path("build/adaqat"))
    parser.add_argument("--seeds", type=int, nargs="+", default=SEEDS)
    parser.add_argument("--minutes", type=float, default=float("inf"), help="begin no run after that")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--quick", action="store_true", help="one seed, next to no training: does it work?")
    parser.add_argument(
        "--write", type=pathlib.Path, help="page with a section between <!-- adaqat --> marks"
    )
    arguments = parser.parse_args()
    if arguments.quick and arguments.write:
        parser.error("--quick measures nothing that is worth writing down; leave --quick or --write out")
    torch.set_num_threads(arguments.threads)
    bench = Bench(arguments.data, arguments.out, QUICK if arguments.quick else BUDGET)

    seeds = SEEDS[:1] if arguments.quick else arguments.seeds
    wanted = [(arm, seed) for seed in seeds for arm in ARMS]
    if not _make(bench, [run for run in wanted if bench.find(*run) is None], arguments.minutes):
        print("out of time: start it again for the rest")
    text = _section(bench)
    print(text)
    page = arguments.write or bench.out / "section.md"
    names = _draw(bench, page.parent)
    if arguments.write:
        replace_section(page, "adaqat", "\n\n".join([text, *names]))


def _make(bench: Bench, missing: list[tuple[Arm, int]], minutes: float) -> bool:
    """Make the runs that are missing; whether there was time for all."""
    if missing:
        print(f"float network: {bench.float_file}", flush=True)
    work = [bench.budget.epochs_of(arm) for arm, _ in missing]
    began = time.monotonic()
    for done, (arm, seed) in enumerate(missing):
        if (time.monotonic() - began) / 60 > minutes:
            return False
        run = bench.make(arm, seed)
        spent = (time.monotonic() - began) / 60
        left = spent / sum(work[: done + 1]) * sum(work[done + 1 :])
        result = f"W{run.weights:.2f} A{run.activations:.2f}, {run.integer:.2f} %, {run.minutes:.1f} min"
        print(f"{done + 1:3}/{len(missing)}  {arm}, seed {seed}: {result}  {left:.0f} min left", flush=True)
    return True


def _section(bench: Bench) -> str:
    """All that is to say of the runs, in Markdown."""
    lines = [
        adaqat_tables(bench),
        "",
        f"What was to hold, and what {NETWORK} gave. Noise is twice the standard deviation over the "
        "seeds, pooled over what is compared: of a run and not of a mean, and rough if there are two seeds.",
        "",
        f"| | what was to hold | {NETWORK} | |",
        "| --- | --- | --- | --- |",
        *map(str, adaqat_relations(bench)),
    ]
    return "\n".join(lines)


def _draw(bench: Bench, folder: pathlib.Path) -> list[str]:
    """Write the pictures into a folder; the lines of Markdown that show them."""
    pictures = {"adaqat.svg": ("Accuracy over BitOPs by granularity and lambda", accuracy_over_bitops(bench))}
    for run in bench.runs([DRAWN])[DRAWN][:1]:
        label = f"Widths, loss and oscillations over the steps of one run: {DRAWN}, seed {run.seed}"
        pictures["adaqat_widths.svg"] = label, widths_over_steps(run.log)
    return draw(folder, pictures)


if __name__ == "__main__":
    main()
