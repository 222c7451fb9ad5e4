"""IMPQ: iterative mixed-precision quantization, kernel by kernel, then activation by activation.

Source: S. K. Gonugondla and N. R. Shanbhag, IMPQ: Reduced complexity neural networks via granular
precision assignment; Algorithm 1.
"""

from __future__ import annotations

__all__ = ["SAMPLES", "Impq"]

import dataclasses
import math
from collections.abc import Callable, Iterator
from typing import Any

from torch import Tensor, fx

from mpqtool.checkpoint import Checkpoint, tensors_under
from mpqtool.errors import TrainingError
from mpqtool.quantizers.attach import read_plan
from mpqtool.quantizers.calibrate import learn_sizes
from mpqtool.reporter import Reporter
from mpqtool.training import Trainer

from .batch_norm import reestimate
from .budgets import PHASES, has_part, in_words
from .groups import effective_bits
from .impq_settings import ImpqSettings, State
from .reduction import Reduction
from .selection import select

SAMPLES = 512
"""Samples that noise gains and activation scales are taken from."""

_ROLLBACKS = 2
_TURNS = 3
"""Phases, at most: both, and the first one again if what both have a part in is not met."""
_ITERATIONS = 200
"""Iterations of one phase, at most."""


class Impq:
    """The search. ``run`` reads like Algorithm 1; the rest are its lines.

    Args:
        network: The graph with attached quantizers, at their start widths.
        trainer: The training loop over the part of the training data that is not held out.
        held_out: Returns the metric of the network on held-out data; higher is better.
        batches: Returns batches of ``SAMPLES`` training inputs, always the same.
        settings: What the search may do.
        reporter: Where progress goes.
        save: Called after every epoch with all that ``resume`` needs.
        keep: Called with the number of every iteration that is accepted, its network, the plan in units of
            its weights and the history up to it.
    """

    def __init__(
        self,
        network: fx.GraphModule,
        trainer: Trainer,
        *,
        held_out: Callable[[fx.GraphModule], float],
        batches: Callable[[], Iterator[tuple[Tensor, ...]]],
        settings: ImpqSettings,
        reporter: Reporter,
        save: Callable[[Checkpoint], None],
        keep: Callable[[int, Checkpoint], None],
    ) -> None:
        self.network = network.to(trainer.accelerator.device)
        self.trainer, self.settings, self.reporter = trainer, settings, reporter
        self.held_out, self.batches = held_out, batches
        self.save, self.keep = save, keep
        self.reduction = Reduction(self.network, batches, settings.reduction)
        self.order = sorted(PHASES, key=lambda phase: phase != settings.first)
        self.state = State()
        self.accepted: dict[str, Tensor] = {}
        self.resumed: Checkpoint | None = None

    def resume(self, checkpoint: Checkpoint) -> None:
        """Take up a run where ``save`` last wrote it down."""
        self.state = State(**checkpoint.state["impq"])
        self.network.load_state_dict(tensors_under("network/", checkpoint.tensors))
        self.accepted = tensors_under("accepted/", checkpoint.tensors)
        self.resumed = checkpoint
        learn_sizes(self.network, next(self.batches()))

    def run(self) -> list[dict[str, Any]]:
        """Search until every budget is met or nothing more can be given up; returns the history."""
        state = self.state
        if self.resumed is None:
            self.reduction.begin()
            state.begun = self.settings.budgets.used(self.network)
        while state.phase != "done":
            if self.resumed is None and not self._reduce_precision():
                continue  # the phase is over
            self._fine_tune()
            metric = self.held_out(self.network)
            self._accept_or_roll_back(metric)
            state.iteration += 1
            state.in_phase += 1
            if state.phase == "start":
                self._next_phase(self.order[0])
        self._say_budgets()
        return state.history

    def _reduce_precision(self) -> bool:
        """Take a bit from the least sensitive groups; False if the phase has come to its end."""
        state, settings = self.state, self.settings
        if state.phase == "start":
            return True
        limits = settings.budgets.of_phase(state.phase, state.begun, halfway=state.turn == 0)
        groups = [group for group in self.reduction.groups(state.phase) if group.name not in state.barred]
        reason = self._end(limits, eligible=len(groups))
        if reason is not None:
            return self._end_phase(reason)
        ranking, from_classes = self.reduction.rank(groups, iteration=state.iteration)
        if not from_classes and not state.told:
            state.told = True
            self.reporter.say(
                "sensitivities are of the power of the outputs, as the network has no class logits"
            )
        step = settings.reduction.step
        if state.in_phase == 0:
            state.eligible = len(groups)
        selected = select(
            ranking, step, iteration=state.in_phase, caution=state.caution, begun=state.eligible
        )
        allowed = [entry.group for entry in selected]
        if not allowed:
            return self._end_phase(step.unreached(state.caution, ranking))
        chosen = allowed[: settings.budgets.enough(allowed, limits, self.network)]
        self.reduction.take(chosen)
        state.taken = [group.name for group in chosen]
        self.reporter.event(
            "reduce", phase=state.phase, iteration=state.iteration, groups=len(groups), reduced=len(chosen),
            sensitivities=[entry.sensitivity for entry in (ranking[0], ranking[-1])],
            from_classes=from_classes, **self._bits(),
        )  # fmt: skip
        return True

    def _end(self, limits: dict[str, float], *, eligible: int) -> str | None:
        """Why a phase is over: empty if its budgets are met; None: it goes on."""
        state, settings = self.state, self.settings
        if settings.budgets.are_met(limits, self.network):
            return ""
        if state.rollbacks >= _ROLLBACKS or (state.barred and not eligible):
            state.held_back = True
            return f"fewer bits cost more than {settings.max_drop:g} points on held-out data"
        if not eligible:
            return f"no group of {state.phase} has a bit left to give"
        return f"{_ITERATIONS} iterations were made" if state.in_phase >= _ITERATIONS else None

    def _end_phase(self, reason: str) -> bool:
        """Go on to the next phase. False, as nothing was reduced."""
        state, budgets = self.state, self.settings.budgets
        self.reporter.event("phase_end", phase=state.phase, reason=reason or "budgets met", **self._bits())
        state.reasons[state.phase] = reason
        state.turn += 1
        over = state.turn >= _TURNS or (
            state.turn == len(self.order) and budgets.are_met(budgets.of_both, self.network)
        )
        self._next_phase("done" if over else self.order[state.turn % len(self.order)])
        return False

    def _say_budgets(self) -> None:
        """Say what is used of every budget, what was the last word, and why a budget is not met."""
        state, budgets = self.state, self.settings.budgets
        used, limits = budgets.used(self.network), budgets.limits
        for name, limit in limits.items():
            if used[name] > limit:
                reasons = [state.reasons[phase] for phase in self.order if phase in has_part(name)]
                told = "; ".join(dict.fromkeys(filter(None, reasons)))
                self.reporter.warn(f"{in_words(name, used[name])}, the target is {limit:,.10g}: {told}")
        held_back = state.held_back and not budgets.are_met(limits, self.network)
        binding = "max_drop" if held_back else budgets.binding(used, state.begun)
        self.reporter.event("budgets", used=used, limits=dict(limits), binding=binding)
        told = ", ".join(f"{in_words(name, number)} of {limits[name]:,.10g}" for name, number in used.items())
        missed = [name for name, limit in limits.items() if used[name] > limit]
        if missed:
            last_word = f"missed: {', '.join(missed)}"
        else:
            last_word = (
                f"all are met, {binding} with the least to spare" if binding else "all were met at the start"
            )
        self.reporter.say(f"budgets: {told}; {last_word}")

    def _fine_tune(self) -> None:
        state, settings = self.state, self.settings
        last = {"held-out": state.history[-1]["held_out"]} if state.history else {}
        resumed, self.resumed = self.resumed, None
        self.trainer.fit(
            self.network,
            epochs=settings.epochs,
            lr=settings.lr,
            label=f"iteration {state.iteration}",
            columns={**self._bits(), **last},
            resume=resumed,
            on_epoch=self._save,
        )
        reestimate(self.network, self.batches())

    def _accept_or_roll_back(self, metric: float) -> None:
        """Keep the iteration if held-out data allow it; else go back, and be half as bold."""
        state = self.state
        if state.phase == "start":
            self._begin_from(metric)
        accepted = metric >= state.reference - self.settings.max_drop
        row = {
            "iteration": state.iteration, "phase": state.phase, **self._bits(), "held_out": metric,
            "reduced": len(state.taken), "accepted": accepted,
        }  # fmt: skip
        state.history.append(row)
        self.reporter.event("iteration", **row)
        self.reporter.say(
            f"iteration {state.iteration:2d}  {state.phase:<11}  weights {row['weights_eff']:.2f} bits  "
            f"activations {row['activations_eff']:.2f} bits  held-out {metric:.2f}"
            f"{'' if accepted else '  (rolled back)'}"
        )
        if accepted:
            self.accepted = {name: tensor.clone() for name, tensor in self.network.state_dict().items()}
            kept = {"plan": read_plan(self.network).to_json(), "history": state.history}
            self.keep(state.iteration, Checkpoint(self.accepted, kept))
        else:
            self.network.load_state_dict(self.accepted)
            state.rollbacks += 1
            state.caution /= 2
            if len(state.taken) == 1:
                state.barred += state.taken

    def _begin_from(self, metric: float) -> None:
        """Take the network of the start as the one that others are compared with."""
        if not math.isfinite(metric):
            raise TrainingError(
                "The network at the start widths gives outputs that are not numbers. Give a smaller "
                "--lr, or wider --start-bits."
            )
        self.state.reference = metric
        lost = self.settings.float_metric - metric
        if lost > self.settings.max_drop:
            self.reporter.warn(
                f"the network at the start widths is {lost:.2f} points below the float network on "
                "held-out data already; wider --start-bits, more --epochs or another --lr may help"
            )

    def _next_phase(self, phase: str) -> None:
        state = self.state
        state.phase, state.in_phase, state.rollbacks, state.caution = phase, 0, 0, 1.0
        state.taken, state.barred = [], []

    def _save(self, epoch: int, momenta: dict[str, Tensor]) -> None:
        tensors = {f"network/{name}": tensor for name, tensor in self.network.state_dict().items()}
        tensors |= {f"accepted/{name}": tensor for name, tensor in self.accepted.items()}
        state = {
            "impq": dataclasses.asdict(self.state), "epoch": epoch, "epochs_begun": self.trainer.epochs_begun,
        }  # fmt: skip
        self.save(Checkpoint(tensors | momenta, state))

    def _bits(self) -> dict[str, float]:
        return effective_bits(self.network, self.settings.budgets.free)
