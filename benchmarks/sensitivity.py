"""What sensitivities cost, whether the mismatch bound holds, and whether approximations agree.

    python benchmarks/sensitivity.py --network resnet20.onnx --data DIR [--rounds 5] [--threads 1]
    python benchmarks/sensitivity.py --network resnet20.onnx --data DIR --write docs/results.md

DIR holds the four IDX files of Fashion-MNIST, and the network is what ``examples/train_fashion_mnist.py``
trains on them. E7 and E8 are the bound and the ranking of the paper; nothing is fine-tuned.

Memory is what is resident at the peak beyond what was before, once libraries have allocated what they keep:
each in a process of its own, read from /proc, so on Linux.

Source: S. K. Gonugondla and N. R. Shanbhag, IMPQ: Reduced complexity neural networks via granular precision
assignment, equations 1 to 5.
"""

from __future__ import annotations

import argparse
import functools
import pathlib
import statistics
import tempfile

import torch
from common.float_training import trained
from common.page import Relation, replace_section, table
from gains.cost import SUMS, peaks, times
from gains.ranking import agreement, cuts
from relations.network import network

import mpqtool
from mpqtool.data import load_data
from mpqtool.importer import import_graph
from mpqtool.passes import pipelines
from mpqtool.passes.load import load_model
from mpqtool.passes.place import place
from mpqtool.passes.plan import Grid
from mpqtool.quantizers.attach import attach, weight_quantizers
from mpqtool.reporter import Reporter
from mpqtool.runtime.interleaved import ratio

_DIGITS = pathlib.Path(__file__).parents[1] / "examples" / "digits.onnx"
_IMAGES = 512
_LONGEST, _LARGEST = 6.0, 2.0
"""Of the time of a forward and backward pass, and of the memory of a training step."""
_EPOCHS, _SAMPLES = 2, 12_000
_CUT_BITS, _SEEDS = 5, range(5)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--network", type=pathlib.Path, required=True, help="float ResNet-20 of Fashion-MNIST"
    )
    parser.add_argument("--data", required=True, help="folder with the four IDX files")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument(
        "--write", type=pathlib.Path, help="page with a section between <!-- sensitivity --> marks"
    )
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    relations: list[Relation] = []
    data, parts = f"idx:{arguments.data}", []
    for make in (
        functools.partial(_cost, arguments.network, arguments.rounds),
        functools.partial(_bounds, arguments.network, data),
        functools.partial(_ranking, arguments.network, data),
    ):
        parts.append(make(relations))
        print(f"{parts[-1]}\n", flush=True)
    head = "| | what was to hold | measured | |\n| --- | --- | --- | --- |"
    parts.append("\n".join([head, *map(str, relations)]))
    print(parts[-1])
    if arguments.write:
        replace_section(arguments.write, "sensitivity", "\n\n".join(parts))


def _cost(path: pathlib.Path, rounds: int, relations: list[Relation]) -> str:
    seconds, megabytes = times(path, rounds), peaks(path)
    plain, step = seconds["forward+backward"], megabytes["training step"]
    ratios = {sums: ratio(seconds[sums], plain) for sums in SUMS}
    shares = {sums: megabytes[sums] / step for sums in SUMS}
    rows = [["forward+backward, batches of 128", f"{statistics.median(plain):.2f}", "1", f"{step:.0f}", "1"]]
    rows += [
        [
            sums, f"{statistics.median(seconds[sums]):.2f}", f"{ratios[sums]:.2f}", f"{megabytes[sums]:.0f}",
            f"{shares[sums]:.2f}",
        ]
        for sums in SUMS
    ]  # fmt: skip
    relations += [
        Relation(
            "cost", f"signs, the default: at most {_LONGEST:g} times as long", f"{ratios['signs']:.2f}",
            ratios["signs"] <= _LONGEST,
        ),
        Relation(
            "cost", f"all ways: at most {_LARGEST:g} times the memory of a training step of batch 128",
            ", ".join(f"{share:.2f}" for share in shares.values()), max(shares.values()) <= _LARGEST,
        ),
    ]  # fmt: skip
    head = ("", "seconds", "x", "MB at the peak", "x")
    return "ResNet-20, all kernels and activations at once, 512 images\n\n" + table(head, rows)


def _bounds(path: pathlib.Path, data: str, relations: list[Relation]) -> str:
    """E7: of three networks."""
    with tempfile.TemporaryDirectory() as folder:
        own = pathlib.Path(folder) / "own.onnx"
        module = trained(
            lambda: network("swish"), load_data(data).train, epochs=_EPOCHS, samples=_SAMPLES,
            reporter=Reporter(), label="inverted residual blocks",
        )  # fmt: skip
        mpqtool.export_onnx(module.eval(), own)
        networks = {"digits": (_DIGITS, None), "ResNet-20": (path, data), "inverted residuals": (own, data)}
        found = {}
        for name, (file, spec) in networks.items():
            for sums in ("ranks", "signs"):
                found[name, sums] = mpqtool.sensitivity(file, data=spec, samples=_IMAGES, sums=sums)[
                    "uniform"
                ]
    rows = []
    for index, row in enumerate(found["digits", "ranks"]):
        cells = [
            f"{100 * found[name, sums][index][key]:.3f}"
            for name in networks
            for sums, key in (("ranks", "bound"), ("signs", "bound"), ("ranks", "measured"))
        ]
        rows.append([str(row["bits"]), *cells])
    for name in networks:
        held = [row["measured"] <= row["bound"] for sums in ("ranks", "signs") for row in found[name, sums]]
        relations.append(
            Relation("E7", f"{name}: measured within the bound", f"{sum(held)} of {len(held)}", all(held))
        )
    head = ["bits", *(f"{name}: {what}" for name in networks for what in ("exact", "signs", "measured"))]
    return (
        "E7: all weights at one width, activations in float; the bound on other answers than the float "
        "network's (all class ranks, and by signs) and what was measured, in percent of 512 training "
        "images\n\n" + table(head, rows)
    )


def _ranking(path: pathlib.Path, data: str, relations: list[Relation]) -> str:
    """E8: of the ResNet-20, with its weights quantized."""
    loaded = load_model(path)
    folded = pipelines.normalize(loaded, fold_batch_norm=True)
    plan = place(folded, weight_bits=4, activation_bits=8, grid=Grid.ODD).replaced(activations=())
    module = attach(import_graph(pipelines.normalize(loaded)), plan)
    parameters = dict(module.named_parameters())
    for quantizer in weight_quantizers(module):
        quantizer.fit(parameters[quantizer.name])
    split = load_data(data).train
    inputs = [torch.from_numpy(array[: 2 * _IMAGES]) for array in split.inputs.values()]
    agreed = agreement(module, inputs, _SEEDS)
    cut = cuts(module, inputs, bits=_CUT_BITS, seeds=_SEEDS)
    least, most = cut["least"][0], cut["most"][0]
    rank = agreed["signs, R = 2"][0]
    relations.append(
        Relation(
            "E8", "signs, R = 2, the default: rank correlation at least 0.99", f"{rank:.4f}", rank >= 0.99
        )
    )
    relations.append(
        Relation(
            "E8", "other answers: least sensitive < every random choice < most sensitive",
            f"{least:.2%}, {min(cut['random']):.2%} to {max(cut['random']):.2%}, {most:.2%}",
            least < min(cut["random"]) and max(cut["random"]) < most,
        )
    )  # fmt: skip
    rows = [[name, f"{rank:.4f}", f"{error:.2f}"] for name, (rank, error) in agreed.items()]
    shares = ", ".join(f"{name} sensitive" if name != "random" else "at random" for name in cut)
    return (
        "E8: noise gains of the kernels of ResNet-20 at 4 bits, 512 images, against the sum over all "
        "class ranks; signs: mean of 5 seeds\n\n"
        + table(("", "rank correlation", "relative error, rms"), rows)
        + f"\n\nA fifth of the kernels at {_CUT_BITS - 2} bits, the others at {_CUT_BITS}, without training; "
        f"other answers of 1,024 images than with all at {_CUT_BITS} ({shares}): {least:.2%}, "
        f"{statistics.fmean(cut['random']):.2%} (5 choices), {most:.2%}."
    )


if __name__ == "__main__":
    main()
