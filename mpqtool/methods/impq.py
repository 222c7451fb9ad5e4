"""IMPQ: iterative mixed-precision quantization, kernel by kernel, then activation by activation.

Source: S. K. Gonugondla and N. R. Shanbhag, IMPQ: Reduced complexity neural networks via granular
precision assignment; Algorithm 1.
"""

from __future__ import annotations

__all__ = ["Impq", "ImpqSettings"]

import dataclasses
import math
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, fx

from mpqtool.checkpoint import Checkpoint, tensors_under
from mpqtool.errors import TrainingError
from mpqtool.quantizers import ActivationQuantizer, WeightQuantizer
from mpqtool.quantizers.attach import activation_quantizers, weight_quantizers
from mpqtool.quantizers.calibrate import calibrate
from mpqtool.reporter import Reporter
from mpqtool.training import Trainer

from .batch_norm import reestimate
from .groups import Activation, Kernel, activation_bits, prefix, weight_bits
from .noise_gain import noise_gains

SAMPLES = 512
"""Samples that noise gains and activation scales are taken from."""

_SHARES = (0.5, 0.5, 0.5, 0.25)
"""Share of the eligible groups that lose a bit in each iteration of a phase, and ..."""
_LATER_SHARE = 0.15
_LEAST_WEIGHT_BITS, _LEAST_ACTIVATION_BITS = 1, 2
_ROLLBACKS = 2
_ITERATIONS = 200
"""Iterations of one phase, at most."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class ImpqSettings:
    """What the search may do.

    Attributes:
        target_weights: Effective bits of the weights to stop at.
        target_activations: Effective bits of the activations to stop at.
        max_drop: Loss of the held-out metric, against the network of uniform widths, that ends a phase.
        epochs: Epochs of fine-tuning in each iteration.
        lr: Peak learning rate.
        seed: Seed of the random signs.
        fixed_activations: Values whose width stays: the inputs of the graph.
        free_activations: Values that no layer multiplies: their width stays, and does not count.
        float_metric: The held-out metric of the float network; NaN where nothing compares with it.
    """

    target_weights: float
    target_activations: float
    max_drop: float
    epochs: int
    lr: float
    seed: int
    fixed_activations: frozenset[str]
    free_activations: frozenset[str]
    float_metric: float


@dataclasses.dataclass
class _State:
    """Where the search is; JSON, part of every checkpoint."""

    phase: str = "start"
    iteration: int = 0
    in_phase: int = 0
    rollbacks: int = 0
    caution: float = 1.0
    reference: float = math.nan
    reduced: int = 0
    history: list[dict[str, Any]] = dataclasses.field(default_factory=list)


class Impq:
    """The search. ``run`` reads like Algorithm 1; the rest are its lines.

    Args:
        network: The graph with attached quantizers, weights at their start widths.
        trainer: The training loop over the part of the training data that is not held out.
        held_out: Returns the metric of the network on held-out data; higher is better.
        batches: Returns batches of ``SAMPLES`` training inputs, always the same.
        settings: What the search may do.
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
        settings: ImpqSettings,
        reporter: Reporter,
        save: Callable[[Checkpoint], None],
    ) -> None:
        self.network = network.to(trainer.accelerator.device)
        self.trainer, self.settings, self.reporter = trainer, settings, reporter
        self.held_out, self.batches, self.save = held_out, batches, save
        self.state = _State()
        self.accepted: dict[str, Tensor] = {}
        self.resumed: Checkpoint | None = None

    def resume(self, checkpoint: Checkpoint) -> None:
        """Take up a run where ``save`` last wrote it down."""
        self.state = _State(**checkpoint.state["impq"])
        self.network.load_state_dict(tensors_under("network/", checkpoint.tensors))
        self.accepted = tensors_under("accepted/", checkpoint.tensors)
        self.resumed = checkpoint
        self.network.eval()
        with torch.no_grad():
            self.network(*next(self.batches()))  # quantizers learn the sizes of their values

    def run(self) -> list[dict[str, Any]]:
        """Search until both targets are met or nothing more can be given up; returns the history."""
        state = self.state
        if self.resumed is None:
            self._set_start_widths()
        while state.phase != "done":
            if self.resumed is None and not self._reduce_precision():
                continue  # the phase is over
            self._fine_tune()
            metric = self.held_out(self.network)
            self._accept_or_roll_back(metric)
            state.iteration += 1
            state.in_phase += 1
            if state.phase == "start":
                self._next_phase("weights")
        return state.history

    def _set_start_widths(self) -> None:
        """A network quantized alike everywhere: scales by least squared error."""
        parameters = dict(self.network.named_parameters())
        for quantizer in self._weights():
            quantizer.fit(parameters[quantizer.name])
        calibrate(self.network, self.batches(), self._activations())

    def _reduce_precision(self) -> bool:
        """Take a bit from the least sensitive groups; False if the phase has come to its end."""
        state = self.state
        if state.phase == "start":
            return True
        groups = self._groups(state.phase)
        excess = self._excess_bits(state.phase)
        if excess <= 0 or not groups or state.rollbacks >= _ROLLBACKS or state.in_phase >= _ITERATIONS:
            self._end_phase(met=excess <= 0, exhausted=not groups)
            return False
        gains = noise_gains(self.network, self.batches(), seed=self.settings.seed + state.iteration)
        share = _SHARES[state.in_phase] if state.in_phase < len(_SHARES) else _LATER_SHARE
        allowed = max(1, round(share * state.caution * len(groups)))
        ranked = sorted(groups, key=lambda group: group.sensitivity(gains))
        chosen = prefix(ranked, allowed, excess)
        touched_weights: dict[WeightQuantizer, None] = {}
        touched_activations: dict[ActivationQuantizer, None] = {}
        for group in chosen:
            group.take_a_bit()
            if isinstance(group, Kernel):
                touched_weights[group.quantizer] = None
            else:
                touched_activations[group.quantizer] = None
        parameters = dict(self.network.named_parameters())
        for weight in touched_weights:
            weight.fit(parameters[weight.name])
        if touched_activations:
            calibrate(self.network, self.batches(), list(touched_activations))
        state.reduced = len(chosen)
        self.reporter.event(
            "reduce", phase=state.phase, iteration=state.iteration, groups=len(groups), reduced=len(chosen),
            from_classes=gains.from_classes, **self._bits(),
        )  # fmt: skip
        return True

    def _end_phase(self, *, met: bool, exhausted: bool) -> None:
        """Go on to the next phase; say why, if the target was not met."""
        state, settings = self.state, self.settings
        if met:
            reason = "target met"
        elif exhausted:
            least = _LEAST_WEIGHT_BITS if state.phase == "weights" else _LEAST_ACTIVATION_BITS
            reason = f"every group that may change is at {least} bits"
        elif state.rollbacks >= _ROLLBACKS:
            reason = f"fewer cost more than {settings.max_drop:g} points on held-out data"
        else:
            reason = f"{_ITERATIONS} iterations were made"
        self.reporter.event("phase_end", phase=state.phase, reason=reason, **self._bits())
        if not met:
            bits = self._bits()[f"{state.phase}_eff"]
            target = getattr(settings, f"target_{state.phase}")
            self.reporter.warn(f"{state.phase} stay at {bits:.2f} bits, the target is {target:g}: {reason}")
        self._next_phase("activations" if state.phase == "weights" else "done")

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
            if not math.isfinite(metric):
                raise TrainingError(
                    "The network at the start widths gives outputs that are not numbers. Give a smaller "
                    "--lr, or wider --start-bits."
                )
            state.reference = metric
            lost = self.settings.float_metric - metric
            if lost > self.settings.max_drop:
                self.reporter.warn(
                    f"the network at the start widths is {lost:.2f} points below the float network on "
                    "held-out data already; wider --start-bits, more --epochs or another --lr may help"
                )
        accepted = metric >= state.reference - self.settings.max_drop
        row = {
            "iteration": state.iteration, "phase": state.phase, **self._bits(), "held_out": metric,
            "reduced": state.reduced, "accepted": accepted,
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
        else:
            self.network.load_state_dict(self.accepted)
            state.rollbacks += 1
            state.caution /= 2

    def _next_phase(self, phase: str) -> None:
        self.state.phase, self.state.in_phase, self.state.rollbacks, self.state.caution = phase, 0, 0, 1.0

    def _save(self, epoch: int, momenta: dict[str, Tensor]) -> None:
        tensors = {f"network/{name}": tensor for name, tensor in self.network.state_dict().items()}
        tensors |= {f"accepted/{name}": tensor for name, tensor in self.accepted.items()}
        state = {
            "impq": dataclasses.asdict(self.state), "epoch": epoch, "epochs_begun": self.trainer.epochs_begun,
        }  # fmt: skip
        self.save(Checkpoint(tensors | momenta, state))

    def _weights(self) -> list[WeightQuantizer]:
        return [q for q in weight_quantizers(self.network) if isinstance(q, WeightQuantizer)]

    def _activations(self) -> list[ActivationQuantizer]:
        return [q for q in activation_quantizers(self.network) if isinstance(q, ActivationQuantizer)]

    def _groups(self, phase: str) -> list[Kernel | Activation]:
        """The groups that still have a bit to give."""
        if phase == "weights":
            return [
                Kernel(quantizer, index)
                for quantizer in self._weights()
                for index, bits in enumerate(quantizer.bits.tolist())
                if bits > _LEAST_WEIGHT_BITS
            ]
        return [
            Activation(quantizer)
            for quantizer in self._activations()
            if int(quantizer.bits) > _LEAST_ACTIVATION_BITS
            and quantizer.name not in self.settings.fixed_activations | self.settings.free_activations
        ]

    def _excess_bits(self, phase: str) -> float:
        """Bits, over all elements, that stand between here and the target of the phase."""
        if phase == "weights":
            used, elements = weight_bits(self.network)
            return used - self.settings.target_weights * elements
        used, elements = activation_bits(self.network, self.settings.free_activations)
        return used - self.settings.target_activations * elements

    def _bits(self) -> dict[str, float]:
        weights = weight_bits(self.network)
        activations = activation_bits(self.network, self.settings.free_activations)
        return {
            "weights_eff": weights[0] / weights[1],
            "activations_eff": activations[0] / max(activations[1], 1),
        }
