"""Post-training quantization beside NNCF, and AdaRound beside AIMET, on the same few images.

    python benchmarks/ptq_peers.py --network resnet20.onnx --data DIR --nncf-python PATH [--rounds 5]
    python benchmarks/ptq_peers.py --network resnet20.onnx --data DIR --nncf-python PATH \
        --aimet-python PATH --write docs/results.md

DIR holds the four IDX files of Fashion-MNIST, and the network is what ``examples/train_fashion_mnist.py``
trains on them. PATH is the Python of an environment with ``nncf onnx onnxruntime``, or ``aimet-onnx``. All
get the same training images, without labels, in an ``.npz`` file. What is timed is whole processes, in turn,
imports and all; mpqtool's also proves, measures and reports. AIMET takes minutes: one round. Accuracy is
top-1 of plain ONNX Runtime on the 10,000 test images. Below 8 bits mpqtool solves AdaRound's problem by
default.
"""

from __future__ import annotations

import argparse
import dataclasses
import os
import pathlib
import shlex
import statistics

import numpy as np
from common.page import Relation, replace_section, table
from common.process import Process, mpqtool_command, run
from numpy.typing import NDArray
from post_training.score import Score, score

from mpqtool import rundir
from mpqtool.data import load_data
from mpqtool.passes.load import load_model

_IMAGES = 300
_ITERATIONS = 1000  # of AIMET's AdaRound
_SHARE, _BYTES = 1 / 3, 175_000  # of its time, and of our file with 4-bit weights
_HERE = pathlib.Path(__file__).parent / "post_training"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Tool:
    """Something that quantizes.

    Attributes:
        title: For the table.
        command: Its command line.
        file: What comes out.
    """

    title: str
    command: list[str | os.PathLike[str]]
    file: pathlib.Path


@dataclasses.dataclass(frozen=True, kw_only=True)
class Found:
    """What came of one.

    Attributes:
        runs: What its process took, round by round.
        score: What its file is worth.
    """

    runs: list[Process]
    score: Score

    @property
    def seconds(self) -> float:
        """The median."""
        return statistics.median(run.seconds for run in self.runs)

    def row(self, title: str) -> list[str]:
        seconds = [run.seconds for run in self.runs]
        cpu = statistics.median(run.cpu_seconds for run in self.runs)
        megabytes = statistics.median(run.megabytes for run in self.runs)
        times = f"{min(seconds):.1f}", f"{self.seconds:.1f}", f"{cpu:.1f}", f"{megabytes:.0f}"
        return [title, *times, *_quality(self.score)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--network", type=pathlib.Path, required=True)
    parser.add_argument("--data", required=True, help="folder with the four IDX files")
    parser.add_argument("--nncf-python", help="Python of an environment with NNCF")
    parser.add_argument("--aimet-python", help="Python of an environment with AIMET")
    parser.add_argument("--options", default="--method ptq", help="what mpqtool is told beside NNCF")
    parser.add_argument("--adaround-options", default="--method ptq --bits W4A8")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--out", type=pathlib.Path, default=pathlib.Path("build/ptq_peers"))
    parser.add_argument(
        "--write", type=pathlib.Path, help="page with a section between <!-- ptq-peers --> marks"
    )
    arguments = parser.parse_args()
    if not (arguments.nncf_python or arguments.aimet_python):
        parser.error("nothing to compare with: give --nncf-python, --aimet-python or both")
    out, network = arguments.out, arguments.network
    out.mkdir(parents=True, exist_ok=True)
    data = load_data(f"idx:{arguments.data}")
    images, test = (next(iter(split.inputs.values())) for split in (data.train, data.test))
    name = str(load_model(network).graph.inputs[0].name)
    samples = out / "samples.npz"
    np.savez(samples, **{name: images[:_IMAGES]})
    inputs, labels = {name: test}, data.test.labels

    def ours(title: str, options: str, folder: pathlib.Path) -> Tool:
        command = mpqtool_command("quantize", network, "--data", samples, "-o", folder)
        return Tool(title=title, command=[*command, *shlex.split(options)], file=folder / rundir.INT)

    def theirs(title: str, python: str, script: str, file: pathlib.Path, *more: str) -> Tool:
        return Tool(title=title, command=[python, _HERE / script, network, samples, file, *more], file=file)

    rows, relations = [["float", "", "", "", "", *_quality(score(network, network, inputs, labels))]], []
    if arguments.nncf_python:
        pair = (
            theirs("NNCF, W8A8", arguments.nncf_python, "nncf_quantize.py", out / "nncf.onnx"),
            ours("mpqtool, W8A8", arguments.options, out / "w8a8"),
        )
        found = _in_turn(pair, arguments.rounds, network, inputs, labels)
        rows += [one.row(tool.title) for tool, one in zip(pair, found, strict=True)]
        relations.append(_beside_nncf(*found))
    if arguments.aimet_python:
        file = out / "aimet.onnx"
        pair = (
            theirs("AIMET, W4A8", arguments.aimet_python, "aimet_adaround.py", file, str(_ITERATIONS)),
            ours("mpqtool, W4A8", arguments.adaround_options, out / "w4a8"),
        )
        found = _in_turn(pair, 1, network, inputs, labels)
        rows += [one.row(tool.title) for tool, one in zip(pair, found, strict=True)]
        relations += _beside_aimet(*found)
    head = (
        "",
        "seconds, least",
        "median",
        "of CPU",
        "MB",
        "top-1",
        "answers of float",
        "bytes",
        "time, x float",
    )
    verdicts = ["| | what was to hold | measured | |", "| --- | --- | --- | --- |", *map(str, relations)]
    text = "\n".join([table(head, rows), "", *verdicts])
    print(text)
    if arguments.write:
        replace_section(arguments.write, "ptq-peers", text)


def _in_turn(
    tools: tuple[Tool, Tool], rounds: int, network: pathlib.Path, inputs: dict[str, NDArray], labels: NDArray
) -> tuple[Found, ...]:
    """Run both one after the other, so many times, and measure the files of the last round."""
    runs: dict[str, list[Process]] = {tool.title: [] for tool in tools}
    for index in range(rounds):
        for tool in tools:
            log = tool.file.with_suffix(".log")
            done = run(tool.command, log)
            if done.failure is not None:
                raise SystemExit(f"{tool.title}: {done.failure} (all of it in {log})")
            runs[tool.title].append(done)
            print(f"round {index + 1}  {tool.title}: {done.seconds:.1f} s", flush=True)
    return tuple(
        Found(runs=runs[tool.title], score=score(tool.file, network, inputs, labels)) for tool in tools
    )


def _quality(score: Score) -> list[str]:
    return [f"{score.top1:.2f} %", f"{score.agreement:.2f} %", f"{score.bytes:,}", f"{score.ratio:.2f}"]


def _beside_nncf(nncf: Found, ours: Found) -> Relation:
    return Relation(
        "W8A8", "less time than NNCF's nncf.quantize, whole processes, medians",
        f"{ours.seconds:.1f} s, {nncf.seconds:.1f} s", ours.seconds < nncf.seconds,
    )  # fmt: skip


def _beside_aimet(aimet: Found, ours: Found) -> list[Relation]:
    assert aimet.score.top1 is not None  # there are labels
    assert ours.score.top1 is not None
    return [
        Relation(
            "W4A8", f"at most a third of the time of AIMET's AdaRound, {_ITERATIONS:,} iterations",
            f"{ours.seconds:.0f} s, {aimet.seconds:.0f} s", ours.seconds <= _SHARE * aimet.seconds,
        ),
        Relation(
            "W4A8", "top-1 no lower than AIMET's",
            f"{ours.score.top1:.2f} %, {aimet.score.top1:.2f} %", ours.score.top1 >= aimet.score.top1,
        ),
        Relation(
            "W4A8", f"at most {_BYTES:,} bytes", f"{ours.score.bytes:,}", ours.score.bytes <= _BYTES,
        ),
        Relation("W4A8", "faster than float", f"{ours.score.ratio:.2f} of its time", ours.score.ratio < 1),
    ]  # fmt: skip


if __name__ == "__main__":
    main()
