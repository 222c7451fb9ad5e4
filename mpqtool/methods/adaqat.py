"""AdaQAT: bit-widths that are learned by gradient descent while the network is trained.

Source: C. Gernigon et al., AdaQAT: Adaptive bit-width quantization-aware training, AICAS 2024.
"""

from __future__ import annotations

__all__ = ["AdaQat", "AdaQatSettings"]

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from torch import fx

from mpqtool.checkpoint import Checkpoint
from mpqtool.passes.roles import Role
from mpqtool.quantizers import PactQuantizer
from mpqtool.quantizers.attach import activation_quantizers, plain_activations
from mpqtool.quantizers.calibrate import calibrate, collect, passing_unset
from mpqtool.quantizers.initialize import initial_clip
from mpqtool.training import Trainer

from .batch_norm import reestimate
from .epochs import EpochMethod, EpochSettings
from .width_search import WidthSearch
from .width_start import SearchSettings
from .width_variables import Hardware, LayerCost


@dataclasses.dataclass(frozen=True, kw_only=True)
class AdaQatSettings(EpochSettings):
    """How to learn.

    Attributes:
        search: What the search for widths may do.
        costs: The hardware term.
        roles: Of the activations that are clipped, by name.
        clip: Where every clip starts; None: fitted to the data.
    """

    search: SearchSettings
    costs: Sequence[LayerCost]
    roles: Mapping[str, Role]
    clip: float | None = None


class AdaQat(EpochMethod[AdaQatSettings]):
    """The training: widths and weights together, then weights alone."""

    def __init__(self, network: fx.GraphModule, trainer: Trainer, **settings: Any) -> None:
        super().__init__(network, trainer, **settings)
        self.search = WidthSearch(
            self.network, trainer, hardware=Hardware(self.settings.costs, self.network),
            settings=self.settings.search, reporter=self.reporter,
        )  # fmt: skip
        self.observer = self.search

    @property
    def is_searching(self) -> bool:
        return not self.search.is_done

    def more_state(self) -> dict[str, Any]:
        return {"search": self.search.state()}

    def resume(self, checkpoint: Checkpoint) -> None:
        super().resume(checkpoint)
        self.search.restore(checkpoint.state["search"])

    def initialize(self) -> None:
        """Give every quantizer of activations the numbers that learning starts from; weights need none."""
        # DoReFa's weights are of another size than those that the statistics were taken with.
        reestimate(self.network, self.batches(), forward=passing_unset(self.network))
        quantizers = activation_quantizers(self.network)
        calibrate(self.network, self.batches(), plain_activations(self.network))
        clipped = [q for q in quantizers if isinstance(q, PactQuantizer)]
        samples = collect(self.network, self.batches(), clipped)
        for quantizer in clipped:
            role = self.settings.roles[quantizer.name]
            alpha, share = initial_clip(samples[quantizer.name], role, bits=int(quantizer.bits))
            quantizer.set_numbers(alpha=self.settings.clip or alpha, share=share)
