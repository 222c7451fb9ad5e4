"""Learn bit-widths while a network is trained: finite differences of the loss against the hardware term.

Source: Gernigon et al., AdaQAT, section III, and its future work: a width per layer or per kernel.
"""

from __future__ import annotations

__all__ = ["EVERY", "WidthSearch"]

import contextlib
import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, fx

from mpqtool.batch import Batch
from mpqtool.reporter import Reporter
from mpqtool.training import Trainer

from .batch_norm import held_statistics
from .width_report import columns, log_settled, picture, say_ended
from .width_start import SearchSettings, first_width, rate
from .width_variables import Hardware, LayerCost, Question, Variable, grouped, questions
from .widths import Width

EVERY, _PASSES = 8, 2
"""Steps from one update of the widths to the next, and the forward passes that it takes."""
_PATIENCE, _LEAST_PATIENCE = 0.2, 80
"""Share of the steps of a stage after which a width that hardly moves is settled, and steps at least: ten
updates, as fewer would be noise."""


class WidthSearch:
    """Looks on while a network is trained, and learns the widths of its quantizers.

    Every few steps, one bit less is tried on the batch that is about to be trained on: ``L(ceil N) -
    L(floor N)`` is the slope of the task loss (AdaQAT, section III-C). It is measured before the step, in
    training mode, with the same random numbers, and leaves no trace in the statistics. In a fine stage
    variables take turns, and the others go by what they measured last.

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
        self.step = self.began = 0
        self.stage = ""
        self.variables: list[Variable] = []
        self._questions: list[Question] = []
        self._asked: list[tuple[Question, Tensor]] = []
        self._begin(settings.stages[0])

    @property
    def is_done(self) -> bool:
        """Whether every width is settled, in the last stage; without any steps it is at once."""
        return not self.settings.steps or (self.stage == self.settings.stages[-1] and not self._open)

    @property
    def _open(self) -> list[Variable]:
        return [variable for variable in self.variables if not variable.width.is_settled]

    def state(self) -> dict[str, Any]:
        """All that ``restore`` needs; JSON."""
        widths = [dataclasses.asdict(variable.width) for variable in self.variables]
        # Measured times do not come again.
        costs = [dataclasses.astuple(cost) for cost in self.hardware.costs]
        return {
            "step": self.step, "began": self.began, "stage": self.stage, "widths": widths, "costs": costs,
        }  # fmt: skip

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from where ``state`` was taken; the network has its buffers of then."""
        self.hardware = Hardware([LayerCost(*cost) for cost in state["costs"]], self.network)
        self._begin(state["stage"])
        self.step, self.began = state["step"], state["began"]
        for variable, width in zip(self.variables, state["widths"], strict=True):
            variable.width = Width(**width)

    def before_forward(self, batch: Batch) -> None:
        """Measure the loss of one bit less, where it is time to."""
        self._asked = []
        if self.is_done or (self.step + 1) % EVERY:
            return
        for question in self._next_questions():
            with self._one_bit_less(question):
                self._asked.append((question, self.trainer.loss(self.network, batch)))

    def before_step(self, loss: Tensor) -> dict[str, object]:
        """Take in the loss at the present widths, and update them where it is time to."""
        self.step += 1
        if self.is_done:
            return {}
        shown = self._update(loss) if self.step % EVERY == 0 else {}
        if self.step - self.began >= self._budget:
            for variable in self._open:
                self._settle(variable, "budget")
        if not self._open:
            self._end_stage()
        return shown

    def _begin(self, stage: str) -> None:
        """Give every variable of a stage its first width: the bits that it has."""
        former = {variable.kind: variable.width for variable in self.variables}
        self.stage, self.began = stage, self.step
        weights, activations = self.hardware.learned()
        settings, fine = self.settings, stage == self.settings.stages[-1]
        self.variables = grouped("weights", weights, settings.weights if fine else "network")
        if settings.activations is not None:
            self.variables += grouped("activations", activations, settings.activations if fine else "network")
        for variable in self.variables:
            # What has one width for the network was settled in the stage before.
            variable.width = (variable.is_network and former.get(variable.kind)) or first_width(
                variable, settings, step=self.step, budget=self._budget, fine=stage != "network"
            )
        self._questions = questions(self.variables, dict(self.network.named_parameters()))

    @property
    def _budget(self) -> int:
        """Steps of the present stage."""
        if self.stage != self.settings.stages[-1]:
            return self.settings.steps // 2
        return max(self.settings.steps - self.began, 1)

    def _next_questions(self) -> list[Question]:
        """What was measured least, one for each of the forward passes that an update has."""
        asked = [question for question in self._questions if question.open]
        order = np.random.default_rng((self.settings.seed, self.step)).permutation(len(asked))
        turns = sorted(order, key=lambda i: min(v.width.measured for v in asked[i].open))
        return [asked[i] for i in turns[:_PASSES]]

    @contextlib.contextmanager
    def _one_bit_less(self, question: Question) -> Iterator[None]:
        """A block in which some variables have a bit less, and nothing else is changed by a forward pass."""
        asked = question.open
        try:
            for variable in asked:
                variable.use(variable.width.bits - 1)
            device = self.trainer.accelerator.device
            devices = [] if device.type == "cpu" else [device]
            with torch.no_grad(), torch.random.fork_rng(devices), held_statistics(self.network):
                yield
        finally:
            for variable in asked:
                variable.use(variable.width.bits)

    def _update(self, loss: Tensor) -> dict[str, object]:
        """One step of the descent: AdaQAT, equations 3 and 4."""
        losses = torch.stack([loss, *(other for _, other in self._asked)])
        # The same on every process, and so are the widths.
        here, *others = self.trainer.accelerator.reduce(losses, "mean").tolist()
        for (question, _), other in zip(self._asked, others, strict=True):
            question.observe(here - other)
        bits = self.hardware.bits()  # all slopes are those of one point
        slopes = [(variable, self._slope(variable, bits)) for variable in self._open]
        patience = max(round(_PATIENCE * self._budget), _LEAST_PATIENCE)
        for variable, slope in slopes:
            if slope is None:
                continue
            width, before = variable.width, variable.width.bits
            width.descend(slope, steps=EVERY, step=self.step)
            width.settle_if_done(step=self.step, patience=patience)
            if width.bits != before:
                variable.use(width.bits)
            if width.reason is not None:
                log_settled(self.reporter, self.step, self.stage, variable)
        row = picture(self.variables) | {"loss": here, "hardware": self.hardware.value()}
        self.reporter.event("widths", step=self.step, steps=self.settings.steps, stage=self.stage, **row)
        return columns(row)

    def _slope(self, variable: Variable, bits: Mapping[str, float]) -> float | None:
        """The gradient by a width, as a share of its layers; None: to be measured first."""
        width = variable.width
        if width.is_to_be_measured:
            return None
        price = self.settings.balance * self.hardware.slope(variable, bits)
        width.rate = rate(width, price)
        return width.bracket / self.hardware.share(variable) + price

    def _settle(self, variable: Variable, reason: str) -> None:
        variable.width.settle(reason)
        variable.use(variable.width.bits)
        log_settled(self.reporter, self.step, self.stage, variable)

    def _end_stage(self) -> None:
        """Say how the stage ended, and begin the next one if there is one."""
        say_ended(self.reporter, self.step, self.stage, self.variables)
        falling = [v for v in self.variables if v.width.would_fall(self._budget)]
        if falling and self.stage == self.settings.stages[-1]:
            self.reporter.warn(
                f"{len(falling)} of {len(self.variables)} widths were still falling when the search for them "
                "ended; with more --epochs there would be fewer bits"
            )
        stages = self.settings.stages
        if self.stage != stages[-1]:
            self._begin(stages[stages.index(self.stage) + 1])
