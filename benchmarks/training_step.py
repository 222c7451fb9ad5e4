"""What the import, and what fake quantization, add to a training step.

    python -P benchmarks/training_step.py [--threads 1] [--rounds 10]

ResNet-20 at 28x28, batch 64: a step of the network as it is written in torch, of the same imported from ONNX,
with the W4A8 quantizers of IMPQ, with the W4A4 quantizers of LSQ, and of LSQ+ with an offset at every
activation, and of the integer simulation that the last epochs train.
"""

from __future__ import annotations

import argparse
import pathlib
import tempfile

import torch
from torch import nn

import mpqtool
from mpqtool.importer import import_graph
from mpqtool.methods.lsq import initialize
from mpqtool.passes import pipelines
from mpqtool.passes.load import load_model
from mpqtool.passes.place import place
from mpqtool.passes.plan import Grid
from mpqtool.quantizers.attach import activation_quantizers, attach, restrain_scales, weight_quantizers
from mpqtool.quantizers.calibrate import calibrate
from mpqtool.run_lsq import lsq_network
from mpqtool.runtime.interleaved import interleaved, table
from mpqtool.simulate import IntegerSimulation
from mpqtool.zoo import resnet20


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=10)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    torch.manual_seed(0)
    x, label = torch.rand(64, 1, 28, 28), torch.randint(0, 10, (64,))

    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder) / "resnet20.onnx"
        mpqtool.export_onnx("mpqtool.zoo:resnet20", path, input_shape=(1, 28, 28), arg={"in_channels": 1})
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
    things = {name: (lambda network=network: step(network)) for name, network in networks.items()}
    print(table(interleaved(things, rounds=arguments.rounds), reference="torch"))


if __name__ == "__main__":
    main()
