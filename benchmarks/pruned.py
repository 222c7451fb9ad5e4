"""How much faster an integer file is without its kernels of 0 bits.

    python -P benchmarks/pruned.py [--bits 4] [--batch 1 8] [--rounds 100]

ResNet-20 at 28x28 with every weight at one width, and with kernels at 0 bits in the layers whose results
nothing but layers read, the first ones of the residual blocks: a third of their kernels, and so many that a
third of all kernels of the network are gone.
"""

from __future__ import annotations

import argparse
import functools
import pathlib
import tempfile

import numpy as np

import mpqtool
from mpqtool.passes import metadata, pipelines
from mpqtool.passes.load import load_model, save_model
from mpqtool.passes.place import place
from mpqtool.passes.plan import Grid, Plan
from mpqtool.runtime.interleaved import interleaved, table
from mpqtool.runtime.session import make_session


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--bits", type=int, default=4)
    parser.add_argument("--batch", type=int, nargs="+", default=[1, 8])
    parser.add_argument("--rounds", type=int, default=100)
    arguments = parser.parse_args()

    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        source = folder / "resnet20.onnx"
        mpqtool.export_onnx("mpqtool.zoo:resnet20", source, input_shape=(1, 28, 28), arg={"in_channels": 1})
        model = pipelines.normalize(load_model(source), fold_batch_norm=True)
        whole = _with_scales(place(model, weight_bits=arguments.bits, activation_bits=8, grid=Grid.ODD))
        everything = {w.name for w in whole.weights}
        lowered = pipelines.lower(pipelines.quantize(model, _pruned(whole, everything, 1)))
        notes = [node.metadata_props for node in lowered.graph if metadata.KEPT in node.metadata_props]
        free = {note[metadata.WEIGHT] for note in notes if metadata.WEIGHT in note}
        kernels = [sum(len(w.bits) for w in whole.weights if w.name in names) for names in (everything, free)]
        plans = {
            "unpruned": whole,
            "a third of their kernels": _pruned(whole, free, 1 / 3),
            "a third of all kernels": _pruned(whole, free, kernels[0] / kernels[1] / 3),
        }
        sessions = {}
        for label, plan in plans.items():
            path = folder / f"{label}.onnx"
            save_model(pipelines.lower(pipelines.quantize(model, plan)), path)
            macs = mpqtool.inspect(path)["cost"]["macs"]
            print(f"{label}: {macs:,} MACs, {path.stat().st_size:,} bytes")
            sessions[label] = make_session(path, threads=1)
    for batch in arguments.batch:
        feeds = {"x": np.random.default_rng(0).random((batch, 1, 28, 28), np.float32)}
        things = {label: functools.partial(session.run, None, feeds) for label, session in sessions.items()}
        print(f"\nbatch {batch}, 1 thread")
        print(table(interleaved(things, rounds=arguments.rounds), reference="unpruned"))


def _with_scales(plan: Plan) -> Plan:
    """Any scales do: time does not depend on the numbers."""
    zeros = {None: 128, 0: 0}
    return plan.replaced(
        activations=[
            a.model_copy(update={"scale": 2.0**-4, "zero_point": zeros[a.zero_point]})
            for a in plan.activations
        ]
    )


def _pruned(plan: Plan, names: set[str], share: float) -> Plan:
    """The plan with a share of the kernels of some weights at 0 bits."""
    weights = []
    for weight in plan.weights:
        gone = round(share * len(weight.bits)) if weight.name in names else 0
        bits = (0,) * gone + weight.bits[gone:]
        weights.append(weight.model_copy(update={"bits": bits}))
    return plan.replaced(weights=weights)


if __name__ == "__main__":
    main()
