"""Fit the scales and zero points of activation quantizers to data."""

from __future__ import annotations

__all__ = ["calibrate", "collect", "learn_sizes", "observe", "passing_unset", "set_ranges"]

from collections.abc import Callable, Iterable, Mapping, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, fx, nn

from mpqtool.errors import TrainingError

from .activation import ActivationQuantizer
from .learned_offset import OffsetQuantizer
from .observer import Observer
from .pact import PactQuantizer
from .ranges import OF_HISTOGRAM, RANGES, Ranges

_OUT_OF_SIGHT = 12.0
"""So far below the largest, an exponential is 0 in integers: ``rint(2**16 * exp(-12))``."""


@torch.no_grad()
def learn_sizes(network: fx.GraphModule, batch: Sequence[Tensor]) -> None:
    """Send a batch through, so that quantizers know how many elements a value has."""
    network.eval()
    network(*batch)


def calibrate(
    graph_module: fx.GraphModule,
    batches: Iterable[Sequence[Tensor]],
    quantizers: Sequence[ActivationQuantizer],
    *,
    ranges: Ranges = "mse",
    on_samples: Callable[[int], object] = lambda count: None,
) -> None:
    """Set scale and zero point of each quantizer by what reaches it on the batches.

    Values are those that reach each quantizer while weights are quantized, and every other activation
    that has numbers already. In front of Softmax, those that it makes 0 of count as the largest less 12, so
    that a mask of -10000 or infinity does not take the range.

    Memory does not grow with the number of samples, and results are the same for batches of any size where
    values have the samples along the first axis.

    Args:
        graph_module: A graph with attached quantizers.
        batches: Inputs, positional in graph order.
        quantizers: Which ones to fit.
        ranges: The rule, one of ``ranges.RANGES``.
        on_samples: Is told the number of samples of every batch that is done.

    Raises:
        TrainingError: A value is not finite.
    """
    seen = observe(graph_module, batches, quantizers, histogram=ranges in OF_HISTOGRAM, on_samples=on_samples)
    set_ranges(seen, quantizers, ranges)


def set_ranges(
    seen: Mapping[str, Observer], quantizers: Sequence[ActivationQuantizer], ranges: Ranges
) -> None:
    """Set scale and zero point of each quantizer by what was seen of its values."""
    for quantizer in quantizers:
        scale, zero_point = RANGES[ranges](
            seen[quantizer.name], int(quantizer.bits), nonnegative=quantizer.nonnegative
        )
        quantizer.set_numbers(scale=scale, zero_point=zero_point)


@torch.no_grad()
def observe(
    graph_module: fx.GraphModule,
    batches: Iterable[Sequence[Tensor]],
    quantizers: Sequence[nn.Module],
    *,
    histogram: bool = False,
    refuse_infinite: bool = True,
    on_samples: Callable[[int], object] = lambda count: None,
) -> dict[str, Observer]:
    """What is seen of the values that reach some quantizers, by value name.

    Args:
        graph_module: A graph with attached quantizers.
        batches: Inputs, positional in graph order.
        quantizers: Which ones; those of them that are set pass their values through all the same.
        histogram: Whether to count all elements in histograms.
        refuse_infinite: Whether a value may not be infinite or NaN; else ``Observer.is_finite`` tells.
        on_samples: Is told the number of samples of every batch that is done.

    Raises:
        TrainingError: A value is not finite.
    """
    collector = _Collector(graph_module, quantizers, histogram=histogram, refuse_infinite=refuse_infinite)
    training = graph_module.training
    graph_module.eval()
    try:
        for batch in batches:
            collector.run(*batch)
            on_samples(len(batch[0]))
    finally:
        graph_module.train(training)
    return collector.seen


def collect(
    graph_module: fx.GraphModule, batches: Iterable[Sequence[Tensor]], quantizers: Sequence[nn.Module]
) -> dict[str, NDArray[np.float32]]:
    """A sample of the values that reach some quantizers, by value name, ``(at most SAMPLES_PER_VALUE,)``.

    Raises:
        TrainingError: A value is not finite.
    """
    seen = observe(graph_module, batches, quantizers)
    return {name: observer.reservoir.sample for name, observer in seen.items()}


class _Collector(fx.Interpreter):
    """Observe what reaches the wanted quantizers; unset quantizers pass values through."""

    def __init__(
        self,
        module: fx.GraphModule,
        wanted: Sequence[nn.Module],
        *,
        histogram: bool = False,
        refuse_infinite: bool = True,
    ) -> None:
        super().__init__(module)
        self.extra_traceback = False  # it would be part of the message
        self.wanted, self.histogram, self.refuse_infinite = set(wanted), histogram, refuse_infinite
        self.seen: dict[str, Observer] = {}

    def call_module(self, target: str, args: tuple[Tensor, ...], kwargs: dict[str, object]) -> object:  # type: ignore[override]
        module = self.fetch_attr(target)
        if isinstance(module, ActivationQuantizer | OffsetQuantizer | PactQuantizer):
            if module in self.wanted:
                self._observe(module.name, _seen(module, args[0]))
            if module in self.wanted or not module.is_set:
                return module.pass_through(args[0])
        return super().call_module(target, args, kwargs)

    def _observe(self, name: str, x: Tensor) -> None:
        if name not in self.seen:
            self.seen[name] = Observer(histogram=self.histogram)
        observer = self.seen[name]
        observer.add(x)
        if self.refuse_infinite and not observer.is_finite:
            raise TrainingError(
                f"The value {name!r} becomes infinite or NaN on the training inputs. Scale "
                "the inputs, or give a smaller --lr."
            )


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
