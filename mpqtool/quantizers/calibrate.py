"""Fit the scales and zero points of activation quantizers to data."""

from __future__ import annotations

__all__ = ["SAMPLES_PER_VALUE", "calibrate", "fit_tie"]

import dataclasses
from collections.abc import Iterable, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, fx

from mpqtool.errors import TrainingError
from mpqtool.passes.arithmetic import dequantize, quantize

from .activation import ActivationQuantizer

SAMPLES_PER_VALUE = 2**14
"""Elements of a value that the fit looks at; more changed no fitted scale by more than 2 %."""

_OUT_OF_SIGHT = 12.0
"""So far below the largest, an exponential is 0 in integers: ``rint(2**16 * exp(-12))``."""

_OCTAVE = [float(np.float32(2.0 ** (step / 24))) for step in range(24)]


@dataclasses.dataclass(frozen=True)
class _Fit:
    error: float
    exponent: int
    zero_point: int


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
        quantizers: Which ones to fit; a tie without numbers must be fitted whole.

    Raises:
        TrainingError: A value is not finite.
    """
    samples = _collect(graph_module, batches, {id(q): q for q in quantizers})
    for quantizer in quantizers:
        if not np.isfinite(samples[id(quantizer)]).all():
            raise TrainingError(
                f"The value {quantizer.name!r} becomes infinite or NaN on the training inputs. Scale "
                "the inputs, or give a smaller --lr."
            )
    ties: dict[str, list[ActivationQuantizer]] = {}
    for quantizer in quantizers:
        ties.setdefault(quantizer.tie or f"={quantizer.name}", []).append(quantizer)
    for members in ties.values():
        first = members[0]
        # A tie that is at work keeps its base: members outside this call stand on it.
        keep = first.tie is not None and not bool(first.base.isnan())
        base, fits = fit_tie(
            [samples[id(q)] for q in members],
            [int(q.bits) for q in members],
            [q.nonnegative for q in members],
            bases=[float(first.base.detach())] if keep else _OCTAVE,
        )
        for quantizer, fit in zip(members, fits, strict=True):
            quantizer.set_numbers(base=base, exponent=fit.exponent, zero_point=fit.zero_point)


def fit_tie(
    samples: Sequence[NDArray[np.float32]],
    bits: Sequence[int],
    nonnegative: Sequence[bool],
    *,
    bases: Sequence[float] = _OCTAVE,
) -> tuple[float, list[_Fit]]:
    """The base scale, exponents and zero points with the least summed relative error.

    Each member takes its best power of two above or below the base.

    Args:
        samples: One array of values per member.
        bits: One width per member.
        nonnegative: Per member, whether its zero point must be 0.
        bases: Base scales to try; one octave holds them all, up to the exponents.

    Returns:
        The base scale and one fit per member.
    """
    best: tuple[float, float, list[_Fit]] = (np.inf, 1.0, [])
    for base in bases:
        fits = [
            _fit_member(x, b, positive, base)
            for x, b, positive in zip(samples, bits, nonnegative, strict=True)
        ]
        total = sum(fit.error for fit in fits)
        if total < best[0]:
            best = (total, base, fits)
    return best[1], best[2]


def _fit_member(x: NDArray[np.float32], bits: int, nonnegative: bool, base: float) -> _Fit:
    """The best exponent and zero point of one value, given the base of its tie."""
    high = 2**bits - 1
    smallest, largest = float(x.min(initial=0)), float(x.max(initial=0))
    span = largest - (0 if nonnegative else smallest)
    power = float(np.square(x, dtype=np.float64).mean()) if x.size else 0.0
    if span <= 0 or power <= 0:
        return _Fit(0.0, 0, 0)
    # From "covers everything" down to a sixteenth of it: below that no clip is ever best.
    widest = int(np.ceil(np.log2(span / high / base)))
    best = _Fit(np.inf, widest, 0)
    for exponent in range(widest, widest - 5, -1):
        scale = np.float32(base * 2.0**exponent)
        for zero_point in _zero_points(smallest, largest, float(scale), high, nonnegative):
            back = dequantize(quantize(x, scale, zero_point, 0, high), scale, zero_point)
            error = float(np.square(back - x, dtype=np.float64).mean()) / power
            if error < best.error:
                best = _Fit(error, exponent, zero_point)
    return best


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

    def __init__(self, module: fx.GraphModule, wanted: dict[int, ActivationQuantizer]) -> None:
        super().__init__(module)
        self.wanted = wanted
        self.kept: dict[int, list[Tensor]] = {key: [] for key in wanted}

    def call_module(self, target: str, args: tuple[Tensor, ...], kwargs: dict[str, object]) -> object:  # type: ignore[override]
        module = self.fetch_attr(target)
        if isinstance(module, ActivationQuantizer):
            module.elements = args[0][0].numel()
            if id(module) in self.wanted:
                flat = _in_sight(args[0], module.softmax_axis).flatten() - module.shift
                self.kept[id(module)].append(_drawn(flat))
                return args[0]
            if bool(module.base.isnan()):
                return args[0]
        return super().call_module(target, args, kwargs)


def _in_sight(x: Tensor, softmax_axis: int | None) -> Tensor:
    """The value with what a mask sets far below the rest no lower than Softmax can tell."""
    if softmax_axis is None:
        return x
    return x.maximum(x.amax(softmax_axis, keepdim=True) - _OUT_OF_SIGHT)


@torch.no_grad()
def _collect(
    graph_module: fx.GraphModule,
    batches: Iterable[Sequence[Tensor]],
    wanted: dict[int, ActivationQuantizer],
) -> dict[int, NDArray[np.float32]]:
    collector = _Collector(graph_module, wanted)
    training = graph_module.training
    graph_module.eval()
    for batch in batches:
        collector.run(*batch)
    graph_module.train(training)
    return {key: _drawn(torch.cat(parts)).cpu().numpy() for key, parts in collector.kept.items()}


def _drawn(values: Tensor) -> Tensor:
    """At most ``SAMPLES_PER_VALUE`` of the values, always the same; every n-th could miss whole channels."""
    if len(values) <= SAMPLES_PER_VALUE:
        return values
    drawn = torch.randint(len(values), (SAMPLES_PER_VALUE,), generator=torch.Generator().manual_seed(0))
    return values[drawn.to(values.device)]
