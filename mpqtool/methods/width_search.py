"""Learn bit-widths while a network is trained: finite differences of the loss against the hardware term.

Source: Gernigon et al., AdaQAT, section III, and its future work: a width per layer or per kernel.
"""

from __future__ import annotations

__all__ = ["EVERY", "WidthSearch"]

import contextlib
import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, fx

from mpqtool.batch import Batch
from mpqtool.reporter import Reporter
from mpqtool.training import Trainer

from .batch_norm import held_statistics
from .trial import Trial
from .width_report import columns, log_settled, picture, say_ended
from .width_start import SearchSettings, first_width, rate
from .width_variables import Hardware, LayerCost, Variable, grouped
from .widths import Width

EVERY = 8
"""Steps from one update of the widths to the next."""
_PATIENCE, _LEAST_PATIENCE = 0.2, 80
"""Share of the steps after which a width that hardly moves is settled, and steps at least: ten
updates, as fewer would be noise."""


class WidthSearch:
    """Looks on while a network is trained, and learns the widths of its quantizers.

    Every few steps, one bit less is tried on the batch that is about to be trained on: ``L(ceil N) -
    L(floor N)`` is the slope of the task loss (AdaQAT, section III-C). It is measured before the step, in
    training mode, with the same random numbers, and leaves no trace in the statistics. There is one trial for
    all weights and one for all activations, and several widths share what it finds (``Trial``).

    The gradient of a variable is divided by its share of the hardware term, so that a small layer moves as
    fast as a large one; where the gradient is 0 stays the same. The share of the network is 1.

    Args:
        network: With quantizers; their buffers ``bits`` are changed in place.
        trainer: Computes losses.
        hardware: The hardware term.
        settings: What the search may do.
        reporter: Where progress goes.
    """

    def __init__(
        self,
        network: fx.GraphModule,
        trainer: Trainer,
        *,
        hardware: Hardware,
        settings: SearchSettings,
        reporter: Reporter,
    ) -> None:
        self.network, self.trainer, self.hardware = network, trainer, hardware
        self.settings, self.reporter = settings, reporter
        self.step = 0
        self.variables = self._begun()
        self._trials: list[Trial] = []

    @property
    def is_done(self) -> bool:
        """Whether every width is settled; without any steps it is at once."""
        return not self.settings.steps or not self._open

    @property
    def _open(self) -> list[Variable]:
        return [variable for variable in self.variables if not variable.width.is_settled]

    @property
    def _patience(self) -> int:
        return max(round(_PATIENCE * self.settings.steps), _LEAST_PATIENCE)

    def state(self) -> dict[str, Any]:
        """All that ``restore`` needs; JSON."""
        widths = [dataclasses.asdict(variable.width) for variable in self.variables]
        # Measured times do not come again.
        costs = [dataclasses.astuple(cost) for cost in self.hardware.costs]
        return {"step": self.step, "widths": widths, "costs": costs}

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from where ``state`` was taken; the network has its buffers of then."""
        self.hardware = Hardware([LayerCost(*cost) for cost in state["costs"]], self.network)
        self.step, self.variables = state["step"], self._begun()
        for variable, width in zip(self.variables, state["widths"], strict=True):
            variable.width = Width(**width)

    def before_forward(self, batch: Batch) -> None:
        """Measure the loss of one bit less, where it is time to."""
        self._trials = []
        if self.is_done or (self.step + 1) % EVERY:
            return
        for kind in ("weights", "activations"):
            asked = [v for v in self.variables if v.kind == kind and v.width.can_be_measured]
            if asked:
                trial = Trial(asked)
                with trial.one_bit_less(), self._no_trace():
                    trial.loss = self.trainer.loss(self.network, batch)
                self._trials.append(trial)
        for trial in self._trials:
            trial.begin_watch()

    def before_step(self, loss: Tensor) -> dict[str, object]:
        """Take in the loss at the present widths, and update them where it is time to."""
        self.step += 1
        if self.is_done:
            return {}
        shown = self._update(loss) if self.step % EVERY == 0 else {}
        if self.step >= self.settings.steps:
            for variable in self._open:
                variable.width.settle_by_budget(step=self.step, patience=self._patience)
                variable.use(variable.width.bits)
                log_settled(self.reporter, self.step, variable)
        if not self._open:
            self._end()
        return shown

    def _begun(self) -> list[Variable]:
        """What has a width, with the bits that it has now."""
        weights, activations = self.hardware.learned()
        found = grouped("weights", weights, self.settings.weights)
        if self.settings.activations is not None:
            found += grouped("activations", activations, self.settings.activations)
        for variable in found:
            variable.width = first_width(variable, self.settings)
        return found

    @contextlib.contextmanager
    def _no_trace(self) -> Iterator[None]:
        """A block in which a forward pass changes neither gradients, nor statistics, nor random numbers."""
        device = self.trainer.accelerator.device
        devices = [] if device.type == "cpu" else [device]
        with torch.no_grad(), torch.random.fork_rng(devices), held_statistics(self.network):
            yield

    def _update(self, loss: Tensor) -> dict[str, object]:
        """One step of the descent: AdaQAT, equations 3 and 4."""
        reduce = self.trainer.accelerator.reduce  # the same on every process, and so are the widths
        losses = torch.stack([loss, *(trial.loss for trial in self._trials)])
        here, *others = reduce(losses, "mean").tolist()
        for trial, other in zip(self._trials, others, strict=True):
            trial.observe(here - other, reduce(trial.end_watch(), "sum").tolist())
        bits = self.hardware.bits()  # all slopes are those of one point
        slopes = [(variable, self._slope(variable, bits)) for variable in self._open]
        for variable, slope in slopes:
            if slope is None:
                continue
            width, before = variable.width, variable.width.bits
            width.descend(slope, steps=EVERY, step=self.step)
            width.settle_if_done(step=self.step, patience=self._patience)
            if width.bits != before:
                variable.use(width.bits)
            if width.reason is not None:
                log_settled(self.reporter, self.step, variable)
        row = picture(self.variables) | {"loss": here, "hardware": self.hardware.value()}
        self.reporter.event("widths", step=self.step, steps=self.settings.steps, **row)
        return columns(row)

    def _slope(self, variable: Variable, bits: Mapping[str, float]) -> float | None:
        """The gradient by a width, as a share of its layers; None: to be measured first."""
        width = variable.width
        if width.is_to_be_measured:
            return None
        price = self.settings.balance * self.hardware.slope(variable, bits)
        width.rate = rate(width, price)
        return width.bracket / self.hardware.share(variable) + price

    def _end(self) -> None:
        """Say how the search ended."""
        say_ended(self.reporter, self.step, self.variables)
        falling = [v for v in self.variables if v.width.would_fall(self.settings.steps)]
        if falling:
            self.reporter.warn(
                f"{len(falling)} of {len(self.variables)} widths were still falling when the search for them "
                "ended; with more --epochs there would be fewer bits"
            )
