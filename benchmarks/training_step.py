"""What the import, and what fake quantization, add to a training step.

    python -P benchmarks/training_step.py [--threads 1] [--rounds 10]

ResNet-20 at 28x28, batch 64: a step of the network as it is written in torch, of the same imported from ONNX,
with the W4A8 quantizers of IMPQ, with the W4A4 quantizers of LSQ, and of LSQ+ with an offset at every
activation, and of the integer simulation that the last epochs train. Then eight steps at W4A4 with the
quantizers of AdaQAT, without a search and with one in full swing, which takes forward passes of its own.
"""

from __future__ import annotations

import argparse
import pathlib
import tempfile
from collections.abc import Callable

import onnx_ir as ir
import torch
from torch import Tensor, nn

import mpqtool
from mpqtool.batch import Batch
from mpqtool.data import Split
from mpqtool.hardware import layer_costs
from mpqtool.importer import import_graph
from mpqtool.methods.adaqat import AdaQat, AdaQatSettings
from mpqtool.methods.lsq import initialize
from mpqtool.methods.width_search import SearchSettings
from mpqtool.passes import pipelines
from mpqtool.passes.ends import end_layers
from mpqtool.passes.load import load_model
from mpqtool.passes.normalize.fold_batch_norm import batch_norm_factors
from mpqtool.passes.place import free_values, place
from mpqtool.passes.plan import Grid
from mpqtool.passes.roles import roles
from mpqtool.quantizers.attach import activation_quantizers, attach, restrain_scales, weight_quantizers
from mpqtool.quantizers.calibrate import calibrate
from mpqtool.reporter import Reporter
from mpqtool.run_adaqat import adaqat_network
from mpqtool.run_lsq import lsq_network
from mpqtool.runtime.interleaved import interleaved, table
from mpqtool.simulate import IntegerSimulation
from mpqtool.training import Trainer
from mpqtool.zoo import resnet20

_UPDATE = 8
"""Steps of AdaQAT from one update of the widths to the next."""


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

    plain = "W4A4 without a search"
    things = {plain: _steps(_learning(model, folded, x, label, "network"), x, label, searching=False)}
    for granularity in ("network", "layer", "kernel"):
        method = _learning(model, folded, x, label, granularity)
        things[f"AdaQAT, a width for each {granularity}"] = _steps(method, x, label, searching=True)
    print(f"\n{_UPDATE} steps")
    print(table(interleaved(things, rounds=arguments.rounds), reference=plain))


def _learning(model: ir.Model, folded: ir.Model, x: Tensor, label: Tensor, granularity: str) -> AdaQat:
    """AdaQAT at W4A4, ready to train, with a search that settles nothing."""
    ends = end_layers(folded.graph)
    plan = place(folded, weight_bits=4, activation_bits=4, grid=Grid.ODD, end_bits=8)
    inputs = {str(value.name): x.numpy() for value in folded.graph.inputs}
    passed_over = {*free_values(folded), *inputs}
    found = {name: role for name, role in roles(folded, plan).items() if name not in passed_over}
    fixed = {node.inputs[1].name for node in ends if node.inputs[1] is not None}
    learned = [entry.name for entry in plan.weights if entry.name not in fixed]
    reporter = Reporter(silent=True)
    trainer = Trainer(
        Split(inputs, label.numpy()),
        teacher=None,
        batch_size=len(x),
        epoch_samples=None,
        seed=0,
        reporter=reporter,
    )
    # So many steps that the rates are next to nothing, and no width comes to its end.
    search = SearchSettings(
        balance=0.15,
        weights=granularity,
        activations="network" if granularity == "network" else "layer",
        steps=10**9,
    )
    method = AdaQat(
        adaqat_network(
            import_graph(model), plan, normalized=batch_norm_factors(model), clipped=found, scratch=False
        ),
        trainer,
        held_out=lambda network: 0.0,
        batches=lambda: iter([(x,)]),
        settings=AdaQatSettings(
            epochs=1,
            lr=0.01,
            free=frozenset(free_values(folded)),
            search=search,
            costs=layer_costs(folded, plan, "bitops", learned=learned, inputs=inputs),
            roles=found,
        ),
        reporter=reporter,
        save=lambda checkpoint: None,
    )
    method.initialize()
    return method


def _steps(method: AdaQat, x: Tensor, label: Tensor, *, searching: bool) -> Callable[[], None]:
    """Steps of training from one update of the widths to the next, without those of the optimizer."""
    network, search, trainer, batch = method.network, method.search, method.trainer, Batch([x], label, None)
    network.train()
    if searching and search.stage != search.settings.stages[-1]:
        for variable in search.variables:
            variable.width.settle("budget")
        search.step = -1  # so that the steps that are timed begin behind an update
        search.before_step(torch.tensor(0.0))
    for variable in search.variables:
        variable.width.value -= 0.5  # between two widths, where both are measured

    def steps() -> None:
        for _ in range(_UPDATE):
            if searching:
                search.before_forward(batch)
            loss = trainer.loss(network, batch)
            loss.backward()
            if searching:
                search.before_step(loss.detach())
            restrain_scales(network)
            network.zero_grad()

    return steps


if __name__ == "__main__":
    main()
