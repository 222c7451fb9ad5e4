"""Lines 12 to 17 of IMPQ's Algorithm 1: rank the groups, take a bit from some, fit their scales anew."""

from __future__ import annotations

__all__ = ["Reduction", "ReductionSettings"]

import dataclasses
from collections.abc import Callable, Iterator, Sequence

from torch import Tensor, fx

from mpqtool.quantizers import ActivationQuantizer, WeightQuantizer
from mpqtool.quantizers.attach import plain_activations, plain_weights
from mpqtool.quantizers.calibrate import calibrate, learn_sizes

from .activation_clips import six_sigma_clips
from .groups import Activation, Group, Weights, weight_groups
from .noise_gain import noise_gains
from .removal_gain import removal_gains
from .selection import Step
from .sensitivity import Ranked, ranked, savings, sensitivities
from .width_variables import LayerCost


@dataclasses.dataclass(frozen=True, kw_only=True)
class ReductionSettings:
    """What loses bits, and in which order.

    Attributes:
        granularity: What has a width of its weights: ``kernel``, ``layer`` or ``network``.
        sensitivity: What one bit less costs, of ``SENSITIVITIES``.
        rank: What that is divided by, of ``RANKS``.
        clip: Where weights are clipped: ``mse``, ``paper4rms`` or ``max``.
        activation_clip: Where clips of activations start: ``mse`` or ``6sigma``.
        prune: Whether kernels may lose their last bit.
        step: How many groups lose a bit at once.
        fixed: Values whose width stays: inputs of the graph, and what no layer multiplies.
        costs: Multiply-accumulates of the layers, as shares.
        seed: Seed of the random signs.
    """

    granularity: str = "kernel"
    sensitivity: str = "bound"
    rank: str = "bits"
    clip: str = "mse"
    activation_clip: str = "mse"
    prune: bool = False
    step: Step = Step()  # noqa: RUF009  # frozen
    fixed: frozenset[str] = frozenset()
    costs: Sequence[LayerCost] = ()
    seed: int = 0


class Reduction:
    """Groups of a network, their ranking, and their widths.

    Args:
        network: The graph with attached quantizers.
        batches: Returns batches of a few hundred training inputs, always the same.
        settings: What loses bits, and in which order.
    """

    def __init__(
        self,
        network: fx.GraphModule,
        batches: Callable[[], Iterator[tuple[Tensor, ...]]],
        settings: ReductionSettings,
    ) -> None:
        self.network, self.batches, self.settings = network, batches, settings
        self.weights = plain_weights(network)
        self.activations = plain_activations(network)

    def begin(self) -> None:
        """Fit the scales that a plan leaves open."""
        self._fit([q for q in self.weights if bool(q.scale.isnan().any())])
        self._calibrate([q for q in self.activations if not q.is_set])
        learn_sizes(self.network, next(self.batches()))

    def groups(self, phase: str) -> Sequence[Group]:
        """The groups that still have a bit to give."""
        if phase == "weights":
            return weight_groups(self.weights, self.settings.granularity, prune=self.settings.prune)
        found = [Activation(q) for q in self.activations if q.name not in self.settings.fixed]
        return [group for group in found if not group.is_empty]

    def rank(self, groups: Sequence[Group], *, iteration: int) -> tuple[list[Ranked], bool]:
        """The groups, least sensitive first; and whether there are class logits to tell it by."""
        settings, seed = self.settings, self.settings.seed + iteration
        gains, removal = noise_gains(self.network, self.batches(), seed=seed), None
        if settings.prune and isinstance(groups[0], Weights):
            removal = removal_gains(self.network, self.batches(), seed=seed)
        sensitivity = sensitivities(settings.sensitivity, self.network, gains, removal)
        saving = savings(settings.rank, self.network, settings.costs)
        return ranked(groups, sensitivity, saving), gains.from_classes

    def take(self, groups: Sequence[Group]) -> None:
        """Take a bit from each group, and fit the scales of what has a new width."""
        weights: dict[WeightQuantizer, None] = {}
        for group in groups:
            group.take_a_bit()
            if isinstance(group, Weights):
                weights |= dict.fromkeys(group.members)
        self._fit(list(weights))
        self._calibrate([group.quantizer for group in groups if isinstance(group, Activation)])

    def _fit(self, quantizers: Sequence[WeightQuantizer]) -> None:
        parameters = dict(self.network.named_parameters())
        for quantizer in quantizers:
            quantizer.fit(parameters[quantizer.name], self.settings.clip)

    def _calibrate(self, quantizers: Sequence[ActivationQuantizer]) -> None:
        if not quantizers:
            return
        calibrate(self.network, self.batches(), quantizers)
        if self.settings.activation_clip == "mse":
            return
        clips = six_sigma_clips(self.network, self.batches(), quantizers)
        for quantizer in quantizers:
            if quantizer.name in clips:  # 2**bits steps up to the clip: the last code is one step below
                quantizer.set_numbers(scale=clips[quantizer.name] / 2 ** int(quantizer.bits), zero_point=0)
