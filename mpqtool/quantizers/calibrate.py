"""Fit the scales and zero points of activation quantizers to data."""

from __future__ import annotations

__all__ = ["SAMPLES_PER_VALUE", "calibrate", "collect", "drawn", "fit_codes", "learn_sizes", "passing_unset"]

from collections.abc import Callable, Iterable, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, fx, nn

from mpqtool.errors import TrainingError
from mpqtool.passes.arithmetic import dequantize, quantize

from .activation import ActivationQuantizer
from .learned_offset import OffsetQuantizer
from .pact import PactQuantizer

SAMPLES_PER_VALUE = 2**14
"""Elements of a value that the fit looks at; more changed no fitted scale by more than 2 %."""

_OUT_OF_SIGHT = 12.0
"""So far below the largest, an exponential is 0 in integers: ``rint(2**16 * exp(-12))``."""

_STEPS = 24
"""Scales that are tried in one octave."""


@torch.no_grad()
def learn_sizes(network: fx.GraphModule, batch: Sequence[Tensor]) -> None:
    """Send a batch through, so that quantizers know how many elements a value has."""
    network.eval()
    network(*batch)


def calibrate(
    graph_module: fx.GraphModule,
    batches: Iterable[Sequence[Tensor]],
    quantizers: Sequence[ActivationQuantizer],
) -> None:
    """Set scale and zero point of each quantizer for the least squared error on the batches.

    Values are those that reach each quantizer while weights are quantized, and every other activation
    that has numbers already. In front of Softmax, those that it makes 0 of count as the largest less 12, so
    that a mask of -10000 or infinity does not take the range.

    Args:
        graph_module: A graph with attached quantizers.
        batches: Inputs, positional in graph order.
        quantizers: Which ones to fit.

    Raises:
        TrainingError: A value is not finite.
    """
    samples = collect(graph_module, batches, quantizers)
    for quantizer in quantizers:
        scale, zero_point = fit_codes(
            samples[quantizer.name], int(quantizer.bits), nonnegative=quantizer.nonnegative
        )
        quantizer.set_numbers(scale=scale, zero_point=zero_point)


def fit_codes(x: NDArray[np.float32], bits: int, *, nonnegative: bool) -> tuple[float, int]:
    """The scale and zero point with the least squared error on some values.

    Args:
        x: Any shape.
        bits: Width of a code.
        nonnegative: Whether the zero point must be 0.
    """
    high = 2**bits - 1
    smallest, largest = float(x.min(initial=0)), float(x.max(initial=0))
    span = largest - (0 if nonnegative else smallest)
    if span <= 0 or not x.any():
        return 1.0, 0
    # From "covers everything" down to a sixteenth of it: below that no clip is ever best.
    best = (np.inf, 1.0, 0)
    for octaves in range(5 * _STEPS):
        scale = float(np.float32(span / high * 2.0 ** (-octaves / _STEPS)))
        for zero_point in _zero_points(smallest, largest, scale, high, nonnegative):
            back = dequantize(quantize(x, scale, zero_point, 0, high), scale, zero_point)
            error = float(np.square(back - x, dtype=np.float64).mean())
            best = min(best, (error, scale, zero_point))
    return best[1], best[2]


def _zero_points(smallest: float, largest: float, scale: float, high: int, nonnegative: bool) -> list[int]:
    """Zero points worth trying: the low end kept, the high end kept, and three between.

    Even ones only: a sum rounds with its zero point inside (QLinearAdd) or outside (QuantizeLinear), and
    for an even one half to even is the same either way.
    """
    if nonnegative:
        return [0]
    keep_low, keep_high = -smallest / scale, high - largest / scale
    tried = {2 * round((keep_low + t * (keep_high - keep_low)) / 2) for t in (0, 0.25, 0.5, 0.75, 1)}
    return sorted({min(max(z, 0), high - 1) for z in tried})


class _Collector(fx.Interpreter):
    """Keep a sample of what reaches the wanted quantizers; unset quantizers pass values through."""

    def __init__(self, module: fx.GraphModule, wanted: Sequence[nn.Module]) -> None:
        super().__init__(module)
        self.wanted = set(wanted)
        self.kept: dict[str, list[Tensor]] = {}

    def call_module(self, target: str, args: tuple[Tensor, ...], kwargs: dict[str, object]) -> object:  # type: ignore[override]
        module = self.fetch_attr(target)
        if isinstance(module, ActivationQuantizer | OffsetQuantizer | PactQuantizer):
            if module in self.wanted:
                self.kept.setdefault(module.name, []).append(drawn(_seen(module, args[0]).flatten()))
            if module in self.wanted or not module.is_set:
                return module.pass_through(args[0])
        return super().call_module(target, args, kwargs)


def _seen(quantizer: ActivationQuantizer | OffsetQuantizer | PactQuantizer, x: Tensor) -> Tensor:
    """What codes are to stand for: what a mask sets far below the rest, no lower than Softmax can tell."""
    if not isinstance(quantizer, ActivationQuantizer):
        return x
    if quantizer.softmax_axis is not None:
        x = x.maximum(x.amax(quantizer.softmax_axis, keepdim=True) - _OUT_OF_SIGHT)
    return x - quantizer.shift


def passing_unset(network: fx.GraphModule) -> Callable[..., object]:
    """The network's forward pass, in which activations without a scale are not quantized."""
    return _Collector(network, ()).run


@torch.no_grad()
def collect(
    graph_module: fx.GraphModule, batches: Iterable[Sequence[Tensor]], quantizers: Sequence[nn.Module]
) -> dict[str, NDArray[np.float32]]:
    """A sample of the values that reach some quantizers, by value name, ``(at most SAMPLES_PER_VALUE,)``.

    Raises:
        TrainingError: A value is not finite.
    """
    collector = _Collector(graph_module, quantizers)
    training = graph_module.training
    graph_module.eval()
    for batch in batches:
        collector.run(*batch)
    graph_module.train(training)
    samples = {name: drawn(torch.cat(parts)).cpu().numpy() for name, parts in collector.kept.items()}
    for name, values in samples.items():
        if not np.isfinite(values).all():
            raise TrainingError(
                f"The value {name!r} becomes infinite or NaN on the training inputs. Scale "
                "the inputs, or give a smaller --lr."
            )
    return samples


def drawn(values: Tensor, most: int = SAMPLES_PER_VALUE) -> Tensor:
    """At most so many of the values, always the same; every n-th could miss whole channels."""
    if len(values) <= most:
        return values
    places = torch.randint(len(values), (most,), generator=torch.Generator().manual_seed(0))
    return values[places.to(values.device)]
