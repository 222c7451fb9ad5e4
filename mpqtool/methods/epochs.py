"""Methods that train a network once, for some epochs, and keep the epoch that is best on held-out data."""

from __future__ import annotations

__all__ = ["EpochMethod", "EpochSettings"]

import abc
import dataclasses
import math
from collections.abc import Callable, Iterator
from typing import Any, Generic, TypeVar

from torch import Tensor, fx

from mpqtool.batch import Observer
from mpqtool.checkpoint import Checkpoint, tensors_under
from mpqtool.errors import TrainingError
from mpqtool.quantizers.calibrate import learn_sizes
from mpqtool.reporter import Reporter
from mpqtool.training import Trainer

from .batch_norm import reestimate
from .groups import effective_bits

_MUCH = 3.0
"""Points of the held-out metric that are worth a warning."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class EpochSettings:
    """How long to train, and how fast.

    Attributes:
        epochs: Epochs of training.
        lr: Peak learning rate, of weights and quantizers alike.
        span: The part of the learning-rate schedule that these epochs are.
        patience: Epochs without a better held-out metric after which training stops; None: never.
        free: Names of the values that no layer multiplies.
        float_metric: The held-out metric of the float network; NaN where nothing compares with it.
        way_out: What to change if too much is lost.
    """

    epochs: float
    lr: float
    span: tuple[float, float] = (0.0, 1.0)
    patience: int | None = None
    free: frozenset[str]
    float_metric: float = math.nan
    way_out: str = "wider --bits"


Settings = TypeVar("Settings", bound=EpochSettings)


@dataclasses.dataclass
class _State:
    """Where the training is; JSON, part of every checkpoint."""

    best: float = -math.inf
    best_epoch: int = 0
    kept_epoch: int = 0
    history: list[dict[str, Any]] = dataclasses.field(default_factory=list)


class EpochMethod(abc.ABC, Generic[Settings]):
    """The training. A method says how quantizers are initialized, and may look on at every step.

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
        settings: Settings,
        reporter: Reporter,
        save: Callable[[Checkpoint], None],
    ) -> None:
        self.network = network.to(trainer.accelerator.device)
        self.trainer, self.settings, self.reporter = trainer, settings, reporter
        self.held_out, self.batches, self.save = held_out, batches, save
        self.state = _State()
        self.best: dict[str, Tensor] = {}
        self.resumed: Checkpoint | None = None
        self.observer: Observer | None = None

    @abc.abstractmethod
    def initialize(self) -> None:
        """Give every quantizer the numbers that learning starts from."""

    @property
    def is_searching(self) -> bool:
        """Whether widths still change; such an epoch is not kept."""
        return False

    def more_state(self) -> dict[str, Any]:
        """What ``resume`` needs beside network, history and optimizer; JSON."""
        return {}

    def resume(self, checkpoint: Checkpoint) -> None:
        """Take up a run where ``save`` last wrote it down."""
        self.state = _State(**checkpoint.state["epochs"])
        self.network.load_state_dict(tensors_under("network/", checkpoint.tensors))
        self.best = tensors_under("best/", checkpoint.tensors)
        self.resumed = checkpoint
        learn_sizes(self.network, next(self.batches()))

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
                observer=self.observer,
            )
        if not math.isfinite(self.state.best):
            raise TrainingError(
                "The network gives outputs that are not numbers after every epoch. Give a smaller --lr, "
                f"or {self.settings.way_out}."
            )
        self.network.load_state_dict(self.best)
        self.reporter.say(f"epoch {self.state.kept_epoch} is kept")
        lost = self.settings.float_metric - self.state.best
        if lost > _MUCH:
            self.reporter.warn(
                f"the quantized network is {lost:.2f} points below the float network on held-out data; more "
                f"--epochs, {self.settings.way_out} or another --lr may help"
            )
        return self.state.history

    def _measure(self, epoch: int) -> None:
        """Note how good the network is on held-out data, and keep it if it is the best so far."""
        metric, state = self.held_out(self.network), self.state
        better = not self.is_searching and metric > state.best
        if better:
            state.best_epoch = epoch
        if not self.is_searching and metric >= state.best:  # of two as good, the one that was trained longer
            state.best, state.kept_epoch = metric, epoch
            self.best = {name: tensor.clone() for name, tensor in self.network.state_dict().items()}
        row = {"epoch": epoch, **self._bits(), "held_out": metric}
        if self.is_searching:
            row["searching"] = True
        if math.isfinite(self.settings.float_metric):
            row["float_held_out"] = self.settings.float_metric
        state.history.append(row)
        self.reporter.event("measured", **row)
        note = "" if better else "  (not better)"
        if self.is_searching:
            note = f"  weights {row['weights_eff']:.2f} bits  activations {row['activations_eff']:.2f} bits"
        self.reporter.say(f"epoch {epoch:2d}  held-out {metric:.2f}{note}")

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
            "epochs": dataclasses.asdict(self.state), "epoch": epoch,
            "epochs_begun": self.trainer.epochs_begun, **self.more_state(),
        }  # fmt: skip
        self.save(Checkpoint(tensors, state))

    def _bits(self) -> dict[str, float]:
        return effective_bits(self.network, self.settings.free)
