"""What the import, and what fake quantization, add to a training step.

    python -P benchmarks/training_step.py [--threads 1] [--rounds 10]

ResNet-20 at 28x28, batch 64: a step of the network as it is written in torch, of the same imported from ONNX,
with the W4A8 quantizers of IMPQ, with the W4A4 quantizers of LSQ, and of LSQ+ with an offset at every
activation, and of the integer simulation that the last epochs train. Then epochs of eight steps at W4A4 with
the quantizers of AdaQAT and the optimizer, without a search and with one in full swing, which takes forward
passes of its own.
"""

from __future__ import annotations

import argparse
import functools
import pathlib
import tempfile
from collections.abc import Callable

import numpy as np
import torch
from torch import nn

import mpqtool
from mpqtool.importer import import_graph
from mpqtool.job import prepare
from mpqtool.methods.adaqat import AdaQat
from mpqtool.methods.lsq import initialize
from mpqtool.methods.width_search import EVERY, WidthSearch
from mpqtool.options import QuantizeOptions
from mpqtool.passes import pipelines
from mpqtool.passes.load import load_model
from mpqtool.passes.place import place
from mpqtool.passes.plan import Grid
from mpqtool.quantizers.attach import activation_quantizers, attach, restrain_scales, weight_quantizers
from mpqtool.quantizers.calibrate import calibrate
from mpqtool.reporter import Reporter
from mpqtool.run_adaqat import adaqat
from mpqtool.run_lsq import lsq_network
from mpqtool.run_trainer import make_trainer
from mpqtool.runtime.interleaved import interleaved, ratio, table
from mpqtool.simulate import IntegerSimulation
from mpqtool.zoo import resnet20

_PLAIN = "W4A4 without a search"
_MOST = 1.3
"""What a search may take, as a share of the time without one."""
_BATCH, _STEPS = 64, EVERY
"""Of the epochs that are timed with and without a search: the widths are updated once in as many steps."""
_ENDLESS = 10**8
"""Epochs to search for: so many that no width comes to its end."""
_LR = 1e-9
"""Next to none: the weights of all that is compared stay as they are."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=10)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    torch.manual_seed(0)
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder) / "resnet20.onnx"
        mpqtool.export_onnx("mpqtool.zoo:resnet20", path, input_shape=(1, 28, 28), arg={"in_channels": 1})
        print(table(_steps(path, rounds=arguments.rounds), reference="torch"))
        found = _searches(path, rounds=arguments.rounds)
    print(f"\nAdaQAT, epochs of {_STEPS} steps")
    print(table(found, reference=_PLAIN))
    ratios = [ratio(times, found[_PLAIN]) for name, times in found.items() if name != _PLAIN]
    verdict = "holds" if max(ratios) <= _MOST else "does not hold"
    print(f"a search takes at most {_MOST} times as long: {verdict}, {max(ratios):.2f}")


def _steps(path: pathlib.Path, *, rounds: int) -> dict[str, list[float]]:
    """Seconds of steps without an optimizer, by network."""
    x, label = torch.rand(_BATCH, 1, 28, 28), torch.randint(0, 10, (_BATCH,))
    float_model = load_model(path)
    model = pipelines.normalize(float_model)
    folded = pipelines.normalize(float_model, fold_batch_norm=True)
    plan = place(folded, weight_bits=4, activation_bits=8, grid=Grid.ODD)

    def quantized(graph: nn.Module) -> nn.Module:
        network = attach(graph, plan)
        parameters = dict(network.named_parameters())
        for quantizer in weight_quantizers(network):
            quantizer.fit(parameters[quantizer.name])
        calibrate(network, [(x,)], activation_quantizers(network))
        return network

    def step(network: nn.Module) -> None:
        network.train()
        outputs = network(x)
        logits = outputs if isinstance(outputs, torch.Tensor) else outputs[0]
        nn.functional.cross_entropy(logits, label).backward()
        restrain_scales(network)
        network.zero_grad()

    def learned(config: str) -> nn.Module:
        four = place(folded, weight_bits=4, activation_bits=4, grid=Grid.FULL)
        network, configured = lsq_network(model, folded, four, config=config, offsets=True)
        initialize(network, lambda: iter([(x,)]), init="lsq+", configured=configured)
        return network

    networks = {
        "torch": resnet20(in_channels=1),
        "imported": import_graph(model),
        "IMPQ W4A8": quantized(import_graph(model)),
        "LSQ W4A4": learned("1"),
        "LSQ+ W4A4": learned("4"),
        "integer simulation": IntegerSimulation(quantized(import_graph(folded))),
    }
    things = {name: functools.partial(step, network) for name, network in networks.items()}
    return interleaved(things, rounds=rounds)


def _searches(path: pathlib.Path, *, rounds: int) -> dict[str, list[float]]:
    """Seconds of short epochs at W4A4: without a search, and in full swing by granularity."""
    data = path.with_name("noise.npz")
    rng, samples = np.random.default_rng(0), 2 * _STEPS * _BATCH  # twice: some are held out
    x, label = rng.random((samples, 1, 28, 28), np.float32), rng.integers(0, 10, samples)
    np.savez(data, x=x, label=label, x_test=x[:_BATCH], label_test=label[:_BATCH])
    epochs: dict[str, Callable[[], None]] = {}
    for granularity in ("network", "layer", "kernel"):
        options = QuantizeOptions(
            method="adaqat", data=str(data), granularity=granularity, start_bits="W4A4",
            batch_size=_BATCH, epoch_samples=_STEPS * _BATCH, epochs=_ENDLESS,
        )  # fmt: skip
        job = prepare(path, options, Reporter(silent=True))
        method = adaqat(job, make_trainer(job, job.tuning))
        method.initialize()
        if not epochs:
            epochs[_PLAIN] = functools.partial(_epoch, method, None)
        epochs[f"AdaQAT, a width for each {granularity}"] = functools.partial(_epoch, method, method.search)
    return interleaved(epochs, rounds=rounds)


def _epoch(method: AdaQat, observer: WidthSearch | None) -> None:
    method.trainer.fit(method.network, epochs=1, lr=_LR, label="timing", observer=observer)


if __name__ == "__main__":
    main()
