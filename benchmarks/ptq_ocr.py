"""Post-training quantization of models that are no classifier of photographs: OCR, and an encoder of tokens.

    python benchmarks/ptq_ocr.py --models DIR [--out build/ptq_ocr] [--only direction]
    python benchmarks/ptq_ocr.py --models DIR --write docs/results.md
    python benchmarks/ptq_ocr.py --models DIR --quick

DIR holds the models of rapidocr, which are in its wheel: ``pip download --no-deps
rapidocr-onnxruntime==1.4.4``, and unzip. Lines and pages are drawn with the TrueType fonts below ``--fonts``,
and prepared as rapidocr does; the encoder is trained for some seconds. Every file is quantized by one call of
``mpqtool quantize MODEL --data FILE`` with ``--options``, a process of its own, and measured with plain ONNX
Runtime.
"""

from __future__ import annotations

import argparse
import dataclasses
import pathlib
import shlex
from collections.abc import Callable

import numpy as np
import torch
from common.page import Relation, replace_section, table
from common.process import Process, mpqtool_command, run
from numpy.typing import NDArray
from post_training import encoder
from post_training.lines import lines
from post_training.pages import pages
from post_training.score import Score, score
from post_training.text import fonts

from mpqtool import rundir

_SAMPLES = {"direction": (512, 1000), "detection": (48, 16), "encoder": (512, 500)}
_FEW = {"direction": (48, 64), "detection": (6, 2), "encoder": (64, 32)}
"""How many to calibrate on, and others to measure on."""
_BLUR, _NOISE = 0.7, 20.0  # so much that the float model errs at times: else nothing can be lost
_POINTS, _DB = 0.5, 20.0

Arrays = dict[str, NDArray]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Case:
    """A model and its samples.

    Attributes:
        title: For the table.
        model: The float file.
        draw: Gives so many samples by a seed: arrays by name, as an ``.npz`` file of mpqtool has them.
    """

    title: str
    model: pathlib.Path
    draw: Callable[[int, int], Arrays]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", type=pathlib.Path, required=True, help="folder with rapidocr's models")
    parser.add_argument("--fonts", type=pathlib.Path, default=pathlib.Path("/usr/share/fonts/truetype"))
    parser.add_argument("--out", type=pathlib.Path, default=pathlib.Path("build/ptq_ocr"))
    parser.add_argument("--only", choices=("direction", "detection", "encoder"), nargs="*")
    parser.add_argument("--options", default="--method ptq", help="what mpqtool quantize is told")
    parser.add_argument("--threads", type=int, default=1, help="of the training of the encoder")
    parser.add_argument(
        "--write", type=pathlib.Path, help="page with a section between <!-- ptq-ocr --> marks"
    )
    parser.add_argument("--quick", action="store_true", help="few samples: does it work?")
    arguments = parser.parse_args()
    if arguments.quick and arguments.write:
        parser.error("--quick measures nothing that is worth writing down; leave --quick or --write out")
    torch.set_num_threads(arguments.threads)
    out = arguments.out / "quick" if arguments.quick else arguments.out
    out.mkdir(parents=True, exist_ok=True)

    rows, relations = [], []
    for name, case in _cases(arguments.models, arguments.fonts, out).items():
        if arguments.only and name not in arguments.only:
            continue
        data = out / f"{name}.npz"
        if not data.exists():
            np.savez(data, **_splits(case.draw, (_FEW if arguments.quick else _SAMPLES)[name]))
        folder = out / name
        command = mpqtool_command("quantize", case.model, "--data", data, "-o", folder)
        done = run([*command, *shlex.split(arguments.options)], out / f"{name}.log")
        if done.failure is not None:
            print(f"{name}: {done.failure}", flush=True)
            rows.append([case.title, done.failure])
            continue
        with np.load(data) as archive:
            test = {key.removesuffix("_test"): archive[key] for key in archive.files if key.endswith("_test")}
        labels = test.pop("label", None)
        both = [score(path, case.model, test, labels) for path in (case.model, folder / rundir.INT)]
        rows.append(_row(case.title, *both, done))
        relations.append(_relation(name, case.title, *both))
        print(" | ".join(rows[-1]), flush=True)
    head = ("", "float", "integer", "SQNR", "bytes, float", "integer", "time, x float", "seconds", "MB")
    text = "\n".join(
        [
            f"`mpqtool quantize MODEL {arguments.options} --data FILE`; time of one sample on one thread.",
            "",
            table(head, [[*row, *[""] * (len(head) - len(row))] for row in rows]),
            "",
            "| | what was to hold | measured | |",
            "| --- | --- | --- | --- |",
            *map(str, relations),
        ]
    )
    print(text)
    if arguments.write:
        replace_section(arguments.write, "ptq-ocr", text)


def _cases(models: pathlib.Path, folder: pathlib.Path, out: pathlib.Path) -> dict[str, Case]:
    return {
        "direction": Case(
            title="PP-OCR direction",
            model=_found(models / "ch_ppocr_mobile_v2.0_cls_infer.onnx"),
            draw=lambda count, seed: _labelled(*lines(count, fonts(folder), seed, blur=_BLUR, noise=_NOISE)),
        ),
        "detection": Case(
            title="PP-OCRv4 detection",
            model=_found(models / "ch_PP-OCRv4_det_infer.onnx"),
            draw=lambda count, seed: {"x": pages(count, fonts(folder), seed)},
        ),
        "encoder": Case(
            title="encoder of tokens",
            model=_encoder(out / "encoder.onnx"),
            draw=encoder.samples,
        ),
    }


def _found(path: pathlib.Path) -> pathlib.Path:
    if not path.exists():
        raise SystemExit(
            f"No such file: {path}; --models is the folder rapidocr_onnxruntime/models of its wheel"
        )
    return path


def _encoder(path: pathlib.Path) -> pathlib.Path:
    if not path.exists():
        encoder.export(encoder.trained(), path)
    return path


def _labelled(x: NDArray[np.float32], labels: NDArray[np.int64]) -> Arrays:
    return {"x": x, "label": labels}


def _splits(draw: Callable[[int, int], Arrays], counts: tuple[int, int]) -> Arrays:
    """Samples to calibrate on and others to measure on, of seeds 0 and 1."""
    train, test = (draw(count, seed) for seed, count in enumerate(counts))
    return train | {f"{name}_test": array for name, array in test.items()}


def _row(title: str, before: Score, after: Score, done: Process) -> list[str]:
    return [
        title, _percent(before.top1), _percent(after.top1), f"{after.sqnr:.1f} dB", f"{before.bytes:,}",
        f"{after.bytes:,}", f"{after.ratio:.2f}", f"{done.seconds:.0f}", f"{done.megabytes:.0f}",
    ]  # fmt: skip


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f} %"


def _relation(name: str, title: str, before: Score, after: Score) -> Relation:
    if before.top1 is not None and after.top1 is not None:
        lost = before.top1 - after.top1
        return Relation(title, f"at most {_POINTS} points lost", f"{lost:.2f}", lost <= _POINTS)
    return Relation(title, f"output SQNR at least {_DB:g} dB", f"{after.sqnr:.1f} dB", after.sqnr >= _DB)


if __name__ == "__main__":
    main()
