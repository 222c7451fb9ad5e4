"""LSQ and LSQ+: scales, and real offsets of activations, learned together with the weights.

Source: S. K. Esser et al., Learned Step Size Quantization, ICLR 2020; Y. Bhalgat et al., LSQ+: Improving
low-bit quantization through learnable offsets and better initialization, CVPR workshops 2020.
"""

from __future__ import annotations

__all__ = ["Lsq", "LsqSettings", "initialize"]

import dataclasses
import math
from collections.abc import Callable, Collection, Iterator
from typing import Any

import torch
from torch import Tensor, fx

from mpqtool.checkpoint import Checkpoint, tensors_under
from mpqtool.errors import TrainingError
from mpqtool.quantizers import ActivationQuantizer, LsqWeightQuantizer, OffsetQuantizer
from mpqtool.quantizers.attach import activation_quantizers, weight_quantizers
from mpqtool.quantizers.calibrate import calibrate, collect
from mpqtool.quantizers.initialize import initial_activation, initial_weight_scale
from mpqtool.reporter import Reporter
from mpqtool.training import Trainer

from .batch_norm import reestimate
from .groups import activation_bits, weight_bits


@dataclasses.dataclass(frozen=True, kw_only=True)
class LsqSettings:
    """How to learn.

    Attributes:
        init: Where scales and offsets start from, one of ``quantizers.initialize.INITS``.
        epochs: Epochs of training.
        lr: Peak learning rate, of weights, scales and offsets alike.
        span: The part of the learning-rate schedule that these epochs are.
        patience: Epochs without a better held-out metric after which training stops; None: never.
        configured: Values that have one of the configurations of LSQ+; zero points of all others are fitted.
        free: Names of the values that no layer multiplies.
        float_metric: The held-out metric of the float network; NaN where nothing compares with it.
    """

    init: str
    epochs: float
    lr: float
    span: tuple[float, float] = (0.0, 1.0)
    patience: int | None = None
    configured: frozenset[str]
    free: frozenset[str]
    float_metric: float = math.nan


@dataclasses.dataclass
class _State:
    """Where the training is; JSON, part of every checkpoint."""

    best: float = -math.inf
    best_epoch: int = 0
    kept_epoch: int = 0
    history: list[dict[str, Any]] = dataclasses.field(default_factory=list)


class Lsq:
    """The training.

    Args:
        network: The graph with attached quantizers, without numbers.
        trainer: The training loop over the part of the training data that is not held out.
        held_out: Returns the metric of the network on held-out data; higher is better.
        batches: Returns batches of a few hundred training inputs, always the same.
        settings: How to learn.
        reporter: Where progress goes.
        save: Called after every epoch with all that ``resume`` needs.
    """

    def __init__(
        self,
        network: fx.GraphModule,
        trainer: Trainer,
        *,
        held_out: Callable[[fx.GraphModule], float],
        batches: Callable[[], Iterator[tuple[Tensor, ...]]],
        settings: LsqSettings,
        reporter: Reporter,
        save: Callable[[Checkpoint], None],
    ) -> None:
        self.network = network.to(trainer.accelerator.device)
        self.trainer, self.settings, self.reporter = trainer, settings, reporter
        self.held_out, self.batches, self.save = held_out, batches, save
        self.state = _State()
        self.best: dict[str, Tensor] = {}
        self.resumed: Checkpoint | None = None

    def resume(self, checkpoint: Checkpoint) -> None:
        """Take up a run where ``save`` last wrote it down."""
        self.state = _State(**checkpoint.state["lsq"])
        self.network.load_state_dict(tensors_under("network/", checkpoint.tensors))
        self.best = tensors_under("best/", checkpoint.tensors)
        self.resumed = checkpoint
        self._learn_sizes()

    def run(self) -> list[dict[str, Any]]:
        """Initialize, train, and keep the epoch that is best on held-out data; returns the history."""
        if self.resumed is None:
            self.initialize()
            reestimate(self.network, self.batches())
            self._measure(epoch=0)
        if self.resumed is None or not self._has_lost_patience(self.resumed.state["epoch"]):
            self.trainer.fit(
                self.network,
                epochs=self.settings.epochs,
                lr=self.settings.lr,
                label="training",
                columns=self._bits(),
                resume=self.resumed,
                on_epoch=self._end_epoch,
                span=self.settings.span,
            )
        if not math.isfinite(self.state.best):
            raise TrainingError(
                "The network gives outputs that are not numbers after every epoch. Give a smaller --lr, "
                "or wider --bits."
            )
        self.network.load_state_dict(self.best)
        self.reporter.say(f"epoch {self.state.kept_epoch} is kept")
        return self.state.history

    def initialize(self) -> None:
        """Give every quantizer the numbers that learning starts from."""
        settings = self.settings
        initialize(self.network, self.batches, init=settings.init, configured=settings.configured)

    @torch.no_grad()
    def _learn_sizes(self) -> None:
        """Send a batch through, so that quantizers know how many elements a value has."""
        self.network.eval()
        self.network(*next(self.batches()))

    def _measure(self, epoch: int) -> bool:
        """Note how good the network is on held-out data; whether it is better than ever before."""
        metric, state = self.held_out(self.network), self.state
        better = metric > state.best
        if better:
            state.best_epoch = epoch
        if metric >= state.best:  # of two that are as good, the one that was trained for longer
            state.best, state.kept_epoch = metric, epoch
            self.best = {name: tensor.clone() for name, tensor in self.network.state_dict().items()}
        row = {"epoch": epoch, **self._bits(), "held_out": metric}
        if math.isfinite(self.settings.float_metric):
            row["float_held_out"] = self.settings.float_metric
        state.history.append(row)
        self.reporter.event("measured", **row)
        self.reporter.say(f"epoch {epoch:2d}  held-out {metric:.2f}{'' if better else '  (not better)'}")
        return better

    def _end_epoch(self, epoch: int, tensors: dict[str, Tensor]) -> bool:
        """Measure and save; whether to stop."""
        # Quantized weights jump between levels, so the moving averages of training are of several networks.
        reestimate(self.network, self.batches())
        self._measure(epoch)
        self._save(epoch, tensors)
        return self._has_lost_patience(epoch)

    def _has_lost_patience(self, epoch: int) -> bool:
        patience = self.settings.patience
        return patience is not None and epoch - self.state.best_epoch >= patience

    def _save(self, epoch: int, tensors: dict[str, Tensor]) -> None:
        tensors = tensors | {f"network/{name}": tensor for name, tensor in self.network.state_dict().items()}
        tensors |= {f"best/{name}": tensor for name, tensor in self.best.items()}
        state = {
            "lsq": dataclasses.asdict(self.state), "epoch": epoch, "epochs_begun": self.trainer.epochs_begun,
        }  # fmt: skip
        self.save(Checkpoint(tensors, state))

    def _bits(self) -> dict[str, float]:
        weights = weight_bits(self.network)
        activations = activation_bits(self.network, self.settings.free)
        return {
            "weights_eff": weights[0] / weights[1],
            "activations_eff": activations[0] / max(activations[1], 1),
        }


def initialize(
    network: fx.GraphModule,
    batches: Callable[[], Iterator[tuple[Tensor, ...]]],
    *,
    init: str,
    configured: Collection[str],
) -> None:
    """Give every quantizer the numbers that learning starts from.

    Args:
        network: The graph with attached quantizers.
        batches: Returns batches of inputs, positional in graph order, always the same.
        init: One of ``quantizers.initialize.INITS``.
        configured: Activations that have a configuration; the zero points of the others are fitted.
    """
    parameters = dict(network.named_parameters())
    for weight in weight_quantizers(network):
        assert isinstance(weight, LsqWeightQuantizer)  # as this method attaches them
        per_kernel = len(weight.scale) > 1
        weight.set_scale(
            initial_weight_scale(
                parameters[weight.name], int(weight.bits[0]), weight.grid, init, per_kernel=per_kernel
            )
        )
    quantizers = activation_quantizers(network)
    fitted = [q for q in quantizers if isinstance(q, ActivationQuantizer) and q.name not in configured]
    calibrate(network, batches(), fitted)
    started = [q for q in quantizers if q.name in configured]
    samples = collect(network, batches(), started)
    for quantizer in started:
        x = samples[quantizer.name]
        if isinstance(quantizer, OffsetQuantizer):
            scale, beta = initial_activation(x, init, low=quantizer.low, high=quantizer.high, offset=True)
            quantizer.set_numbers(scale=scale, beta=beta)
        else:
            zero_point = int(quantizer.zero_point)
            low, high = -zero_point, quantizer.high - zero_point
            scale, _ = initial_activation(x, init, low=low, high=high, offset=False)
            quantizer.set_numbers(scale=scale, zero_point=zero_point)
