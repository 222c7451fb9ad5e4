"""How much of what min-max thresholds lose FAT gives back, on a ResNet-20 for Fashion-MNIST.

    python benchmarks/fat.py --network resnet20.onnx --data DIR [--out build/fat] [--threads 1]
    python benchmarks/fat.py --network resnet20.onnx --data DIR --write docs/results.md

DIR holds the four IDX files of Fashion-MNIST, and the network is what ``examples/train_fashion_mnist.py``
trains on them. Every run is one of ``mpqtool quantize``, and its directory is kept in ``--out``: kill it and
start it again, and it goes on behind the last run.

Source: A. Goncharenko et al., Fast adjustable threshold for uniform neural network quantization, 2019.
"""

from __future__ import annotations

import argparse
import pathlib
from typing import Any, NamedTuple

import numpy as np
import torch
from common.page import Relation, replace_section, table
from common.runs import find, make
from numpy.typing import NDArray

from mpqtool import rundir
from mpqtool.data import Split, load_data
from mpqtool.runtime.predict import predict

_BITS = ("W4A8", "W6A6", "W4A4", "W3A3")
_EPOCHS = {"min-max": 0, "FAT": 1}
"""One epoch of 55,000 images is what FAT takes by default."""


class Arm(NamedTuple):
    """One run: its ``result.json``, and which of the test images its integer file gets right."""

    result: dict[str, Any]
    right: NDArray[np.bool_]

    @property
    def accuracy(self) -> float:
        return 100 * float(self.right.mean())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--network", type=pathlib.Path, required=True, help="float ResNet-20 of Fashion-MNIST"
    )
    parser.add_argument("--data", required=True, help="folder with the four IDX files")
    parser.add_argument("--out", type=pathlib.Path, default=pathlib.Path("build/fat"))
    parser.add_argument("--only", nargs="+", choices=_BITS, default=list(_BITS))
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--write", type=pathlib.Path, help="page with a section between <!-- fat --> marks")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    test = load_data(f"idx:{arguments.data}").test
    exact = _right(arguments.network, test)
    arms = {}
    for bits in arguments.only:
        for name, epochs in _EPOCHS.items():
            out = arguments.out / f"{bits}_{epochs}"
            options = {"method": "fat", "bits": bits, "epochs": epochs}
            result = find(out, arguments.network, options)
            result = result or make(out, arguments.network, f"idx:{arguments.data}", options)
            arms[bits, name] = Arm(result, _right(out / rundir.INT, test))
            print(f"{bits} {name}: {arms[bits, name].accuracy:.2f} %", flush=True)
    text = _section(arms, exact, arguments.only)
    print(text)
    if arguments.write:
        replace_section(arguments.write, "fat", text)


def _right(path: pathlib.Path, test: Split) -> NDArray[np.bool_]:
    (logits,) = predict(path, test.inputs)
    return np.asarray(logits.argmax(1) == test.labels)


def _section(arms: dict[tuple[str, str], Arm], exact: NDArray[np.bool_], widths: list[str]) -> str:
    """All that is to say of the runs, in Markdown."""
    rows, relations = [], []
    for bits in widths:
        start, learned = arms[bits, "min-max"], arms[bits, "FAT"]
        lost = 100 * float(exact.mean()) - start.accuracy
        back = learned.accuracy - start.accuracy
        noise = _noise(start.right, learned.right)
        rows.append([
            bits, f"{100 * exact.mean():.2f}", f"{start.accuracy:.2f}", f"{learned.accuracy:.2f}",
            f"{lost:.2f} ± {_noise(exact, start.right):.2f}",
            f"{back:.2f} ± {noise:.2f}",
            f"{start.result['history'][0]['held_out']:.2f}", f"{_kept(learned):.2f}",
        ])  # fmt: skip
        claim = "FAT gives back at least half of the drop"
        numbers = f"{back:.2f} of {lost:.2f}, standard error {noise:.2f}"
        relations.append(str(Relation(bits, claim, numbers, back >= lost / 2)))
    head = (
        "bits", "float", "min-max", "FAT", "drop", "given back", "agreement: min-max", "agreement: FAT",
    )  # fmt: skip
    verdicts = "\n".join(["| | what was to hold | measured | |", "| --- | --- | --- | --- |", *relations])
    return f"{table(head, rows)}\n\n{verdicts}"


def _kept(arm: Arm) -> float:
    return max(row["held_out"] for row in arm.result["history"])


def _noise(first: NDArray[np.bool_], second: NDArray[np.bool_]) -> float:
    """The standard error, in points, of the difference of two accuracies on the same images."""
    return 100 * float((first.astype(np.int8) - second).std()) / len(first) ** 0.5


if __name__ == "__main__":
    main()
