"""LSQ and LSQ+: scales, and real offsets of activations, learned together with the weights.

Source: S. K. Esser et al., Learned Step Size Quantization, ICLR 2020; Y. Bhalgat et al., LSQ+: Improving
low-bit quantization through learnable offsets and better initialization, CVPR workshops 2020.
"""

from __future__ import annotations

__all__ = ["Lsq", "LsqSettings", "initialize"]

import dataclasses
from collections.abc import Callable, Collection, Iterator

from torch import Tensor, fx

from mpqtool.quantizers import ActivationQuantizer, LsqWeightQuantizer, OffsetQuantizer
from mpqtool.quantizers.attach import activation_quantizers, weight_quantizers
from mpqtool.quantizers.calibrate import calibrate, collect
from mpqtool.quantizers.initialize import initial_activation, initial_weight_scale

from .epochs import EpochMethod, EpochSettings


@dataclasses.dataclass(frozen=True, kw_only=True)
class LsqSettings(EpochSettings):
    """How to learn.

    Attributes:
        init: Where scales and offsets start from, one of ``quantizers.initialize.INITS``.
        configured: Values that have one of the configurations of LSQ+; zero points of all others are fitted.
    """

    init: str
    configured: frozenset[str]


class Lsq(EpochMethod[LsqSettings]):
    """The training: scales, offsets and weights together."""

    def initialize(self) -> None:
        """Give every quantizer the numbers that learning starts from."""
        settings = self.settings
        initialize(self.network, self.batches, init=settings.init, configured=settings.configured)


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
        elif isinstance(quantizer, ActivationQuantizer):
            zero_point = int(quantizer.zero_point)
            low, high = -zero_point, quantizer.high - zero_point
            scale, _ = initial_activation(x, init, low=low, high=high, offset=False)
            quantizer.set_numbers(scale=scale, zero_point=zero_point)
