"""Train the arms."""

from __future__ import annotations

__all__ = ["CHANCE", "Bench", "run_arm"]

import pathlib
from typing import Any

import numpy as np
import onnx_ir as ir
import torch
from common.float_training import trained
from numpy.typing import NDArray
from torch import Tensor, fx
from torch.nn import functional as F

import mpqtool
from mpqtool.data import Split, load_data
from mpqtool.errors import TrainingError
from mpqtool.importer import import_graph
from mpqtool.methods.impq import SAMPLES
from mpqtool.methods.lsq import Lsq, LsqSettings
from mpqtool.metrics import score
from mpqtool.passes import pipelines
from mpqtool.passes.load import load_model
from mpqtool.passes.place import free_values, place
from mpqtool.passes.plan import Grid
from mpqtool.quantizers import OffsetQuantizer
from mpqtool.quantizers.attach import activation_quantizers, weight_quantizers
from mpqtool.quantizers.calibrate import collect
from mpqtool.quantizers.initialize import initial_activation
from mpqtool.reporter import Reporter
from mpqtool.run_lsq import lsq_network
from mpqtool.training import Trainer

from .arms import Arm, Budget
from .network import network

CHANCE = 10.0
"""Accuracy of a network that says nothing, in percent."""
_END_BITS = 8
"""Width of the first and the last layer."""
_HELD_OUT = 2000
"""Training images that choose the best epoch; no network is trained on them."""


class Bench:
    """What all arms share: data, float networks, budget.

    Args:
        data: Folder with the IDX files.
        out: Where float networks are kept.
        budget: How much is trained.
    """

    def __init__(self, data: str, out: pathlib.Path, budget: Budget) -> None:
        self.out, self.budget = out, budget
        self.spec = f"idx:{data}"
        found = load_data(self.spec)
        self.train = _rows(found.train, slice(_HELD_OUT, None))
        self.held_out = _rows(found.train, slice(_HELD_OUT))
        self.test = _rows(found.test, slice(budget.test))
        self._normal: dict[str, ir.Model] = {}

    def float_file(self, activation: str) -> pathlib.Path:
        """The float network as an ONNX file; trained where it is not there yet."""
        epochs, samples = self.budget.float_epochs, self.budget.float_samples
        path = self.out / f"{activation}_{epochs}x{samples}.onnx"
        if not path.exists():
            module = trained(
                lambda: network(activation), self.train,
                epochs=epochs, samples=samples, reporter=Reporter(), label=activation,
            )  # fmt: skip
            mpqtool.export_onnx(module, path)
        return path

    def normal(self, activation: str) -> ir.Model:
        """The normal graph of the float network, BatchNormalization kept."""
        if activation not in self._normal:
            model = pipelines.normalize(load_model(self.float_file(activation)))
            self._normal[activation] = pipelines.positive_batch_norm(model)
        return self._normal[activation]

    def float_accuracy(self, activation: str) -> float:
        """Top-1 of the float network on the test images."""
        return _accuracy(self.trainer(seed=0), import_graph(self.normal(activation)), self.test)

    def trainer(self, seed: int) -> Trainer:
        return Trainer(
            self.train, teacher=None, batch_size=self.budget.batch, epoch_samples=self.budget.samples,
            seed=seed, reporter=Reporter(silent=True),
        )  # fmt: skip

    def calibration(self, seed: int) -> Split:
        """The few hundred training images that quantizers are initialized on."""
        return _rows(self.train, np.random.default_rng(seed).permutation(len(self.train))[:SAMPLES])


def run_arm(bench: Bench, arm: Arm, seed: int) -> dict[str, Any]:
    """Train one arm on one seed.

    Returns:
        ``accuracy`` on the test images, that of chance if it ``diverged``; ``held_out`` after each epoch;
        before training ``loss``, and the ``weight_error`` and ``activation_error`` of the quantizers, the
        latter of those with an offset.
    """
    model, trainer, budget = bench.normal(arm.activation), bench.trainer(seed), bench.budget
    folded = pipelines.fold_batch_norm(model)
    plan = place(folded, weight_bits=arm.bits, activation_bits=arm.bits, grid=Grid.FULL, end_bits=_END_BITS)
    network, configured = lsq_network(
        model,
        folded,
        plan,
        config=str(arm.config),
        offsets=True,
        per_kernel=False,
        learned_offset=arm.offset == "learned",
    )
    calibration = bench.calibration(seed)
    losses: list[float] = []

    def measure(network: fx.GraphModule) -> float:
        outputs = trainer.predict(network, bench.held_out)
        losses.append(_loss(outputs, bench.held_out))
        return score("top1", outputs, [], bench.held_out.labels)

    method = _Observed(
        network,
        trainer,
        held_out=measure,
        batches=lambda: trainer.batches_of(calibration),
        settings=LsqSettings(
            init=arm.init, epochs=budget.epochs, lr=budget.lr, configured=configured, free=free_values(folded)
        ),
        reporter=Reporter(silent=True),
        save=lambda checkpoint: None,
    )
    method.fix_offsets = arm.offset == "x_min"
    try:
        method.run()
        accuracy, diverged = _accuracy(trainer, network, bench.test), False
    except TrainingError:
        accuracy, diverged = CHANCE, True
    return {
        "accuracy": accuracy,
        "diverged": diverged,
        "held_out": [row["held_out"] for row in method.state.history],
        "loss": losses[0],
        **method.errors,
    }


class _Observed(Lsq):
    """LSQ and LSQ+, with a look at what training starts from.

    Attributes:
        fix_offsets: Whether offsets are fixed at the smallest value, with the scales that fit best to that.
        errors: Mean error of the quantizers.
    """

    fix_offsets = False

    def initialize(self) -> None:
        super().initialize()
        quantizers = {q.name: q for q in _with_offset(self.network)}
        samples = collect(self.network, self.batches(), list(quantizers.values()))
        if self.fix_offsets:
            for name, x in samples.items():
                _fix_offset(quantizers[name], x, self.settings.init)
        parameters = dict(self.network.named_parameters())
        weights = [_error(parameters[q.name], q(parameters[q.name])) for q in weight_quantizers(self.network)]
        self.errors = {"weight_error": float(np.mean(weights))}
        if samples:
            activations = [_activation_error(quantizers[name], x) for name, x in samples.items()]
            self.errors["activation_error"] = float(np.mean(activations))


def _fix_offset(quantizer: OffsetQuantizer, x: NDArray[np.float32], init: str) -> None:
    low, smallest = quantizer.low, float(x.min())
    scale, _ = initial_activation(x - smallest, init, low=0, high=quantizer.high - low, offset=False)
    quantizer.set_numbers(scale=scale, beta=smallest - low * scale)


def _with_offset(network: fx.GraphModule) -> list[OffsetQuantizer]:
    return [q for q in activation_quantizers(network) if isinstance(q, OffsetQuantizer)]


def _activation_error(quantizer: OffsetQuantizer, x: NDArray[np.float32]) -> float:
    lacking, zero = quantizer(torch.from_numpy(x))
    return _error(torch.from_numpy(x), lacking + zero)


@torch.no_grad()
def _error(x: Tensor, quantized: Tensor) -> float:
    """Mean squared error, as a share of the mean square."""
    return float((quantized - x).square().mean() / x.square().mean())


def _loss(outputs: list[NDArray[Any]], split: Split) -> float:
    assert split.labels is not None
    return float(F.cross_entropy(torch.from_numpy(outputs[0]), torch.from_numpy(split.labels)))


def _accuracy(trainer: Trainer, network: fx.GraphModule, split: Split) -> float:
    return score("top1", trainer.predict(network, split), [], split.labels)


def _rows(split: Split, rows: Any) -> Split:
    assert split.labels is not None
    return Split({name: array[rows] for name, array in split.inputs.items()}, split.labels[rows])
