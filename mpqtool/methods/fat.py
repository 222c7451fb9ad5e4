"""FAT: the thresholds of quantizers alone are learned, without labels, from the outputs of the float network.

Source: A. Goncharenko et al., Fast adjustable threshold for uniform neural network quantization, 2019; loss
and schedule are those of the authors' code.
"""

from __future__ import annotations

__all__ = ["Fat", "FatSettings", "learning_rate"]

import dataclasses
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, fx, nn

from mpqtool.checkpoint import Checkpoint, tensors_under
from mpqtool.errors import TrainingError
from mpqtool.method_options import BATCHES
from mpqtool.optimization import optimizer_tensors, restore_optimizer
from mpqtool.passes.plan import Plan
from mpqtool.precision import make_scaler
from mpqtool.quantizers.threshold import read_thresholds, threshold_quantizers
from mpqtool.reporter import Progress, Reporter
from mpqtool.training import Trainer

from .distance import distance, output_sizes

_FORGET = 400
"""Batches after which the optimizer forgets its moments."""
_MUCH = 3.0
"""Points of the held-out metric that are worth a warning."""


def learning_rate(peak: float, batch: int) -> float:
    """``peak * exp(-1e-4 t) * |cos(pi t / 1600)|`` at batch ``t``, counted from 0 over the whole run.

    It first gets to 0 after as many batches as a run has by default.
    """
    return peak * math.exp(-1e-4 * batch) * abs(math.cos(math.pi * batch / (2 * BATCHES)))


@dataclasses.dataclass(frozen=True, kw_only=True)
class FatSettings:
    """How to learn.

    Attributes:
        epochs: Epochs of training.
        lr: Peak learning rate, in widths at the start per batch.
        float_metric: The held-out metric of the float network; NaN where nothing compares with it.
    """

    epochs: int
    lr: float
    float_metric: float = math.nan


@dataclasses.dataclass
class _State:
    """Where the training is; JSON, part of every checkpoint."""

    batches: int = 0
    best: float = -math.inf
    kept_epoch: int = 0
    restored: int = 0
    history: list[dict[str, Any]] = dataclasses.field(default_factory=list)


class Fat:
    """The training.

    Args:
        network: The graph with thresholds where they start, and BatchNormalization folded.
        trainer: Gives batches with the outputs of the float network.
        held_out: Returns the metric of a plan on held-out data; higher is better.
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
        held_out: Callable[[Plan], float],
        batches: Callable[[], Iterator[tuple[Tensor, ...]]],
        settings: FatSettings,
        reporter: Reporter,
        save: Callable[[Checkpoint], None],
    ) -> None:
        self.network = network.to(trainer.accelerator.device)
        self.trainer, self.settings, self.reporter = trainer, settings, reporter
        self.held_out, self.batches, self.save = held_out, batches, save
        self.state, self.first_epoch = _State(), 0
        self.thresholds = {n: p for n, p in network.named_parameters() if p.requires_grad}
        self.best: dict[str, Tensor] = {}
        self._momenta: dict[str, Tensor] = {}

    def resume(self, checkpoint: Checkpoint) -> None:
        """Take up a run where ``save`` last wrote it down."""
        self.state = _State(**checkpoint.state["fat"])
        self.first_epoch = checkpoint.state["epoch"]
        self.trainer.epochs_begun = checkpoint.state["epochs_begun"]
        self._set(tensors_under("network/", checkpoint.tensors))
        self.best = tensors_under("best/", checkpoint.tensors)
        self._momenta = checkpoint.tensors

    def run(self) -> list[dict[str, Any]]:
        """Train, and keep the thresholds that are best on held-out data; returns the history.

        Raises:
            TrainingError: No output is of real numbers, or never a number.
        """
        teacher = self.trainer.teacher
        assert teacher is not None  # nothing else is learned from
        sizes = output_sizes(teacher, self.batches())
        if not any(sizes):
            raise TrainingError(
                "There is nothing to learn thresholds from: the float network has no output of real numbers "
                "that is not always 0. Give the model without what comes behind its logits."
            )
        if not self.state.history:
            self._measure(epoch=0)
        if self.settings.epochs > self.first_epoch:
            self._train(sizes)
        if not math.isfinite(self.state.best):
            raise TrainingError(
                "The network gives outputs that are not numbers after every epoch. Give wider --bits."
            )
        self._set(self.best)
        self._say_how_it_went()
        return self.state.history

    @property
    def plan(self) -> Plan:
        """The plan as the thresholds stand now."""
        return read_thresholds(self.network)

    def _train(self, sizes: Sequence[float | None]) -> None:
        trainer, settings = self.trainer, self.settings
        model = trainer.accelerator.prepare(self.network)
        optimizer = self._optimizer()
        scaler = make_scaler("no", trainer.accelerator.device)
        restore_optimizer(optimizer, self.network, scaler, self._momenta)
        per_epoch = trainer.batches_per_epoch
        with self.reporter.progress(per_epoch * settings.epochs, "thresholds") as progress:
            progress.advance(per_epoch * self.first_epoch)
            for epoch in range(self.first_epoch + 1, settings.epochs + 1):
                optimizer, loss = self._epoch(model, optimizer, sizes, progress)
                self.reporter.event(
                    "epoch", label="thresholds", epoch=epoch, epochs=settings.epochs, loss=loss
                )
                self._measure(epoch, loss)
                self._save(epoch, optimizer_tensors(optimizer, self.network, scaler))
        trainer.accelerator.free_memory()  # it keeps every loader it ever prepared

    def _epoch(
        self,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        sizes: Sequence[float | None],
        progress: Progress,
    ) -> tuple[torch.optim.Optimizer, float]:
        """One step on each batch of an epoch; the optimizer, and the mean loss."""
        state, accelerator = self.state, self.trainer.accelerator
        good, losses = self._copied(), list[float]()
        for batch in self.trainer.batches(self.trainer.batches_per_epoch):
            if state.batches and state.batches % _FORGET == 0:
                optimizer = self._optimizer()
            for group in optimizer.param_groups:
                group["lr"] = learning_rate(self.settings.lr, state.batches)
            optimizer.zero_grad()
            assert batch.taught is not None  # there is a teacher
            loss = distance(model(*batch.inputs), batch.taught, sizes)
            value = float(accelerator.reduce(loss.detach().clone(), "mean"))
            loss.backward()
            if math.isfinite(value) and self._have_finite_gradients():
                good = self._copied()
                losses.append(value)
                optimizer.step()
                for quantizer in threshold_quantizers(self.network):
                    quantizer.limit()
            else:
                self._set(good)
                optimizer = self._optimizer()
                state.restored += 1
            state.batches += 1
            progress.advance(1)
        return optimizer, math.fsum(losses) / len(losses) if losses else math.nan

    def _optimizer(self) -> torch.optim.Optimizer:
        return torch.optim.Adam(self.thresholds.values(), self.settings.lr)

    def _measure(self, epoch: int, loss: float | None = None) -> None:
        """Note how good the thresholds are on held-out data, and keep them if they are the best so far."""
        metric, state = self.held_out(self.plan), self.state
        better = metric > state.best
        if metric >= state.best:  # of two as good, those that were trained longer
            state.best, state.kept_epoch, self.best = metric, epoch, self._copied()
        row: dict[str, Any] = {"epoch": epoch, "loss": loss, "held_out": metric}
        if math.isfinite(self.settings.float_metric):
            row["float_held_out"] = self.settings.float_metric
        state.history.append(row)
        self.reporter.event("measured", **row)
        self.reporter.say(
            f"epoch {epoch:2d}  held-out {metric:.2f}{'' if better else '  (not better)'}"
            f"{'' if loss is None else f'  distance {loss:.4f}'}"
        )

    def _say_how_it_went(self) -> None:
        state = self.state
        self.reporter.say(f"epoch {state.kept_epoch} is kept")
        if state.restored:
            self.reporter.warn(
                f"the loss of {state.restored} of {state.batches} batches was not a number; the last good "
                "thresholds were restored there"
            )
        lost = self.settings.float_metric - state.best
        if lost > _MUCH:
            self.reporter.warn(
                f"the quantized network is {lost:.2f} points below the float network on held-out data; wider "
                "--bits, more --epochs or another --method, which trains the weights too, may help"
            )

    def _have_finite_gradients(self) -> bool:
        gradients = [p.grad.flatten() for p in self.thresholds.values() if p.grad is not None]
        return bool(torch.cat(gradients).isfinite().all())

    def _copied(self) -> dict[str, Tensor]:
        return {name: tensor.detach().clone() for name, tensor in self.thresholds.items()}

    @torch.no_grad()
    def _set(self, tensors: dict[str, Tensor]) -> None:
        for name, threshold in self.thresholds.items():
            threshold.copy_(tensors[name])

    def _save(self, epoch: int, momenta: dict[str, Tensor]) -> None:
        tensors = momenta | {f"network/{name}": tensor for name, tensor in self.thresholds.items()}
        tensors |= {f"best/{name}": tensor for name, tensor in self.best.items()}
        state = {
            "fat": dataclasses.asdict(self.state), "epoch": epoch, "epochs_begun": self.trainer.epochs_begun,
        }  # fmt: skip
        self.save(Checkpoint(tensors, state))
