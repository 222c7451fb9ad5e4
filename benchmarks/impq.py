"""Tables 1 and 2 and figure 4 of the IMPQ paper in relation, on Fashion-MNIST with three networks.

    python benchmarks/impq.py --data DIR [--out build/impq] [--only 'ResNet-20 kernel*'] [--minutes 30]
    python benchmarks/impq.py --data DIR --write docs/results.md
    python benchmarks/impq.py --data DIR --quick

DIR holds the four IDX files (Debian: ``dpkg -L dataset-fashion-mnist`` says where). Every run is one of
``mpqtool quantize``, and its directory is kept in ``--out``: kill it and start it again, and it goes on
behind the last epoch. Two of these may run side by side, on runs of their own: ``--only`` says which.

A float network of each kind is trained once, or found in ``--out/float_4_held_out``, and every run starts
from it. ``benchmarks/sensitivity.py`` measures the bound on the mismatch and the ranking of the kernels.

Source: S. K. Gonugondla and N. R. Shanbhag, IMPQ: Reduced complexity neural networks via granular precision
assignment, tables 1 and 2, figure 4.
"""

from __future__ import annotations

import argparse
import fnmatch
import pathlib
import time

import torch
from common.page import draw, replace_section
from granular.arms import NETWORKS, Budget, arms
from granular.pictures import accuracy_over_compression as picture
from granular.runs import Bench, stem
from granular.tables import impq_tables
from granular.verdicts import impq_relations

BUDGET = Budget(float_epochs=4, samples=8_000, batch=64)
QUICK = Budget(float_epochs=1, samples=640, batch=32, images=(2400, 200))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", required=True, help="folder with the four IDX files")
    parser.add_argument("--out", type=pathlib.Path, default=pathlib.Path("build/impq"))
    parser.add_argument("--only", default="*", help="runs to make: a pattern of 'NETWORK ARM', with * and ?")
    parser.add_argument("--minutes", type=float, default=float("inf"), help="begin no run after that")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--quick", action="store_true", help="next to no training: does it work?")
    parser.add_argument("--write", type=pathlib.Path, help="page with a section between <!-- impq --> marks")
    arguments = parser.parse_args()
    if arguments.quick and arguments.write:
        parser.error("--quick measures nothing that is worth writing down; leave --quick or --write out")
    torch.set_num_threads(arguments.threads)
    bench = Bench(arguments.data, arguments.out, QUICK if arguments.quick else BUDGET)

    if not _make(bench, arguments.only, arguments.minutes):
        print("out of time: start it again for the rest")
    text = _section(bench)
    print(text)
    page = arguments.write or bench.out / "section.md"
    pictures = {
        f"impq_{stem(network)}.svg": (f"{network}: accuracy over compression", picture(bench, network))
        for network in NETWORKS
    }
    names = draw(page.parent, pictures)
    if arguments.write:
        replace_section(page, "impq", "\n\n".join([text, *names]))


def _section(bench: Bench) -> str:
    """All that is to say of the runs, in Markdown."""
    lines = [
        impq_tables(bench),
        "",
        "| | what was to hold | measured | |",
        "| --- | --- | --- | --- |",
        *map(str, impq_relations(bench)),
    ]
    return "\n".join(lines)


def _make(bench: Bench, only: str, minutes: float) -> bool:
    """Make the runs that are missing; whether there was time for all."""
    began = time.monotonic()
    for network in NETWORKS:
        for arm in arms(network):
            name = f"{network} {arm.folder}"
            if not fnmatch.fnmatch(name, only) or bench.find(network, arm) is not None:
                continue
            if (time.monotonic() - began) / 60 > minutes:
                return False
            run = bench.make(network, arm)
            print(
                f"{name}: W{run.weights:.2f} A{run.activations:.2f}, {run.integer:.2f} % "
                f"({run.to_float:+.2f}), {run.minutes:.1f} min",
                flush=True,
            )
    return True


if __name__ == "__main__":
    main()
