"""Learn bit-widths while a network is trained: finite differences of the loss against the hardware term.

Source: Gernigon et al., AdaQAT, section III, and its future work: a width per layer or per kernel.
"""

from __future__ import annotations

__all__ = ["STAGES", "SearchSettings", "WidthSearch"]

import collections
import contextlib
import dataclasses
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, fx

from mpqtool.batch import Batch
from mpqtool.reporter import Reporter
from mpqtool.training import Trainer

from .batch_norm import held_statistics
from .width_variables import Hardware, Question, Variable, grouped, questions
from .widths import Width

STAGES = ("network", "layer", "kernel")
"""Granularities, coarse to fine. A fine search starts from what a coarse one gave."""

_EVERY, _PASSES = 8, 2
"""Steps from one update of the widths to the next, and the forward passes that it takes."""
_PATIENCE, _LEAST_PATIENCE = 0.2, 80
"""Share of the steps of a stage after which a width that hardly moves is settled, and steps at least."""
_EXPECTED_BITS = 3
"""Where widths are expected to end, in the choice of rates."""
_MOST_BITS = 8
_REACH = 2
"""Bits by which a fine stage may leave what the coarse one gave."""
_TRAVEL, _MOST_RATE = 3.0, 0.05
"""How often the way could be gone within a stage, and bits per step and unit of the gradient at most."""
_ACTIVATION_SHARE = 0.5
"""Rate of activations, as a share of that of weights: AdaQAT, section III-C."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class SearchSettings:
    """What the search may do.

    Attributes:
        balance: Lambda, what one product of a weight's and an activation's bit costs in units of the loss.
        weights: Granularity of the weights, of ``STAGES``.
        activations: Granularity of the activations, ``network`` or ``layer``; None: their widths stay.
        steps: Steps of the optimizer after which every width is settled.
        least_weights: Bits of weights, at least.
        least_activations: Bits of activations, at least.
        seed: Seed of the order in which variables are measured.
    """

    balance: float
    weights: str = "network"
    activations: str | None = "network"
    steps: int
    least_weights: int = 1
    least_activations: int = 2
    seed: int = 0

    @property
    def stages(self) -> tuple[str, ...]:
        """The stages, in order."""
        finest = max(STAGES.index(name) for name in (self.weights, self.activations or "network"))
        if self.steps < 2:  # too few for two stages
            return (STAGES[finest],)
        return ("network",) if finest == 0 else ("network", STAGES[finest])


class WidthSearch:
    """Looks on while a network is trained, and learns the widths of its quantizers.

    Every few steps, one bit less is tried on the batch that is about to be trained on: ``L(ceil N) -
    L(floor N)`` is the slope of the task loss (AdaQAT, section III-C). It is measured before the step, in
    training mode, with the same random numbers, and leaves no trace in the statistics. In a fine stage
    variables take turns, and the others go by what they measured last.

    A fine stage divides the gradient of a variable by its share of the hardware term, so that a small layer
    moves as fast as a large one; where the gradient is 0 stays the same.

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
        return {"step": self.step, "began": self.began, "stage": self.stage, "widths": widths}

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from where ``state`` was taken; the network has its buffers of then."""
        self._begin(state["stage"])
        self.step, self.began = state["step"], state["began"]
        for variable, width in zip(self.variables, state["widths"], strict=True):
            variable.width = Width(**width)

    def before_forward(self, batch: Batch) -> None:
        """Measure the loss of one bit less, where it is time to."""
        self._asked = []
        if self.is_done or (self.step + 1) % _EVERY:
            return
        for question in self._next_questions():
            with self._one_bit_less(question):
                self._asked.append((question, self.trainer.loss(self.network, batch)))

    def before_step(self, loss: Tensor) -> dict[str, object]:
        """Take in the loss at the present widths, and update them where it is time to."""
        self.step += 1
        if self.is_done:
            return {}
        columns = self._update(loss) if self.step % _EVERY == 0 else {}
        if self.step - self.began >= self._budget:
            for variable in self._open:
                self._settle(variable, "budget")
        if not self._open:
            self._end_stage()
        return columns

    def _begin(self, stage: str) -> None:
        """Give every variable of a stage its first width: the bits that it has."""
        former = {variable.name: variable.width for variable in self.variables}
        self.stage, self.began = stage, self.step
        weights, activations = self.hardware.learned()
        fine = stage == self.settings.stages[-1]
        self.variables = grouped("weights", weights, self.settings.weights if fine else "network")
        if self.settings.activations is not None:
            granularity = self.settings.activations if fine else "network"
            self.variables += grouped("activations", activations, granularity)
        for variable in self.variables:
            variable.width = former.get(variable.name) or self._first_width(variable)
        self._questions = questions(self.variables, dict(self.network.named_parameters()))

    def _first_width(self, variable: Variable) -> Width:
        settings, bits = self.settings, variable.bits
        weights = variable.kind == "weights"
        least = settings.least_weights if weights else settings.least_activations
        most, way, others = _MOST_BITS, max(bits - _EXPECTED_BITS, 1), self.hardware.slope(variable)
        if self.stage == "network":
            others = (others + _EXPECTED_BITS) / 2  # they become fewer, too
        else:
            least, most, way = max(least, bits - _REACH), min(most, bits + _REACH), _REACH
        rate = min(_TRAVEL * way / (settings.balance * others * self._budget), _MOST_RATE)
        return Width(
            bits, min(least, bits), max(most, bits), rate if weights else _ACTIVATION_SHARE * rate,
            changed=self.step,
        )  # fmt: skip

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
            with torch.no_grad(), torch.random.fork_rng(), held_statistics(self.network):
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
        slopes = [(variable, self._slope(variable)) for variable in self._open]  # all at one point
        patience = max(round(_PATIENCE * self._budget), _LEAST_PATIENCE)
        for variable, slope in slopes:
            if slope is None:
                continue
            width = variable.width
            width.descend(slope, steps=_EVERY, step=self.step)
            width.settle_if_done(step=self.step, patience=patience)
            variable.use(width.bits)
            if width.reason is not None:
                self._say_settled(variable)
        return self._report(here)

    def _slope(self, variable: Variable) -> float | None:
        """The gradient by a width, in a fine stage as a share of its layers; None: to be measured first."""
        width = variable.width
        if width.can_be_measured and not width.measured:
            return None
        task = width.bracket / self.hardware.share(variable)
        return task + self.settings.balance * self.hardware.slope(variable)

    def _settle(self, variable: Variable, reason: str) -> None:
        variable.width.settle(reason)
        variable.use(variable.width.bits)
        self._say_settled(variable)

    def _say_settled(self, variable: Variable) -> None:
        self.reporter.event(
            "frozen", step=self.step, stage=self.stage, variable=variable.name, kind=variable.kind,
            bits=variable.width.bits, reason=variable.width.reason,
        )  # fmt: skip

    def _end_stage(self) -> None:
        """Say how the stage ended, and begin the next one if there is one."""
        for kind in ("weights", "activations"):
            ended = [variable for variable in self.variables if variable.kind == kind]
            if not ended:
                continue
            reasons = collections.Counter(str(variable.width.reason) for variable in ended)
            why = ", ".join(f"{reason} {count}" for reason, count in reasons.most_common())
            self.reporter.say(
                f"step {self.step}  {self.stage}-wise  {kind} at {_mean_bits(ended):.2f} bits: "
                f"{why if len(ended) > 1 else ended[0].width.reason}"
            )
        stages = self.settings.stages
        if self.stage != stages[-1]:
            self._begin(stages[stages.index(self.stage) + 1])

    def _report(self, loss: float) -> dict[str, object]:
        row: dict[str, Any] = {
            "step": self.step, "steps": self.settings.steps, "stage": self.stage, "loss": loss,
            "hardware": self.hardware.value(),
        }  # fmt: skip
        counts = []
        for kind, word in (("weights", "weight"), ("activations", "activation")):
            found = [variable for variable in self.variables if variable.kind == kind]
            if found:
                count = max(variable.width.oscillations for variable in found)
                row |= {
                    kind: _mean_value(found),
                    f"{word}_bits": _mean_bits(found),
                    f"{word}_oscillations": count,
                }
                counts.append(count)
        self.reporter.event("widths", **row)
        return {
            "weights_eff": row["weight_bits"], "activations_eff": row.get("activation_bits"), "loss": loss,
            "oscillations": "/".join(map(str, counts)),
        }  # fmt: skip


def _mean_bits(found: Sequence[Variable]) -> float:
    return sum(v.width.bits * v.elements for v in found) / sum(v.elements for v in found)


def _mean_value(found: Sequence[Variable]) -> float:
    return sum(v.width.value * v.elements for v in found) / sum(v.elements for v in found)
