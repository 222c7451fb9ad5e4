"""How much the outputs of a float network hang on each of its quantized tensors, element by element."""

from __future__ import annotations

__all__ = ["Reached", "Weighted", "few_samples", "output_gradients", "weighted_values"]

import collections
import dataclasses
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, fx

from mpqtool.quantizers import ActivationQuantizer, WeightQuantizer
from mpqtool.quantizers.observer import SAMPLES_PER_VALUE

from .ptq import samples_that_fit

_DRAWS = 2
"""Random signs of the outputs for each batch."""
_SAMPLES, _AT_ONCE = 64, 8
"""Samples that gradients are told from, and how many of them at once."""
_KEPT = 16
"""How many times as much a backward pass keeps as is alive at one time in a forward pass, about."""


@dataclasses.dataclass(frozen=True)
class Reached:
    """A quantized tensor, and what a random sum of the outputs gains by its elements.

    Attributes:
        real: As it reaches the quantizer.
        gradient: Of the sum, of the same shape.
        rows: How many samples its first axis tells apart; 1 for a weight.
    """

    real: Tensor
    gradient: Tensor
    rows: int


class Weighted(NamedTuple):
    """Elements of a value, and what the squared error of each counts; both ``(elements,)``."""

    values: NDArray[np.float32]
    weights: NDArray[np.float64]


def output_gradients(
    network: fx.GraphModule,
    chunks: Iterable[Sequence[Tensor]],
    *,
    of_weights: bool = True,
    on_samples: Callable[[int], object] = lambda count: None,
    seed: int = 0,
) -> Iterator[dict[str, Reached]]:
    """Gradients of random sums of the float outputs by all quantized tensors, ``r J_j`` for tensor j.

    Signs ``r`` of the outputs are independent, so that ``E_r (r J)**2`` is the diagonal of ``J^T J``, and
    ``E_r (r J d)**2 = |J d|**2`` for any change ``d``: the Gauss-Newton, or Fisher, approximation of what it
    does to the outputs, which has no first order, as outputs as they are have the least distance from
    themselves. Each output counts in units of its norm.

    Source: Hutchinson's estimator; BRECQ (Li et al., ICLR 2021), equation 10.

    Args:
        network: With attached quantizers, which do not quantize here. It is left as it was.
        chunks: Inputs, positional in graph order; more, smaller ones make better estimates.
        of_weights: Whether gradients by weights are wanted too.
        on_samples: Is told the number of samples of every batch that is done.
        seed: Of the signs.

    Yields:
        By name, for every draw of signs and every chunk; without tensors that no output hangs on.
    """
    generator = torch.Generator().manual_seed(seed)
    for chunk in chunks:
        tape = _Tape(network, of_weights=of_weights)
        outputs = tape.run(*chunk)
        real = sum(y.is_floating_point() for y in outputs)  # one that hangs on nothing here has no noise
        for _ in range(_DRAWS if any(y.requires_grad for y in outputs) else 0):
            loss = sum(_signed(y, generator) for y in outputs if y.requires_grad) / real**0.5
            gradients = torch.autograd.grad(loss, [*tape.seen.values()], retain_graph=True, allow_unused=True)
            found = zip(tape.seen.items(), gradients, strict=True)
            yield {
                name: Reached(x.detach(), gradient, _rows(x, len(chunk[0])) if name in tape.values else 1)
                for (name, x), gradient in found
                if gradient is not None
            }
        on_samples(len(chunk[0]))


def weighted_values(
    network: fx.GraphModule, chunks: Sequence[Sequence[Tensor]], *, seed: int = 0
) -> dict[str, Weighted]:
    """Elements of each activation, with what the outputs hang on them: their squared gradients.

    The least squared error under these weights is the least that rounding and clipping of that value do to
    the outputs, as far as errors of elements are independent. Where a maximum is taken of many, only the
    ones that win count; a plain mean would clip them for the sake of the others.

    Elements are drawn with replacement, by weight ``w`` and magnitude ``x``: in proportion to
    ``w (x**2 + m**2)``, where ``m**2`` is the mean of ``x**2`` by weight. So neither what is next to
    weightless nor what is rare and far out gets a wrong part, and memory does not grow.

    Source: the Hessian-guided ranges of PTQ4ViT (Yuan et al., ECCV 2022), section 3.3, with ``J^T J`` of
    ``output_gradients`` for the Hessian.

    Args:
        network: As for ``output_gradients``.
        chunks: Inputs, positional in graph order.
        seed: Of the signs, and of what is drawn.

    Returns:
        By name; none for a value that no output hangs on, as far as float32 tells.
    """
    random = np.random.default_rng(seed)
    most = max(1, SAMPLES_PER_VALUE // (_DRAWS * len(chunks)))
    parts = collections.defaultdict[str, list[Weighted]](list)
    for draw in output_gradients(network, chunks, of_weights=False, seed=seed):
        for name, reached in draw.items():
            drawn = _drawn(reached, most, random)
            if drawn is not None:
                parts[name].append(drawn)
    return {name: Weighted(*map(np.concatenate, zip(*found, strict=True))) for name, found in parts.items()}


def _drawn(reached: Reached, most: int, random: np.random.Generator) -> Weighted | None:
    """Elements of one draw; None if all are without weight."""
    squares, x = reached.gradient.double().square(), reached.real.double()
    counted = squares.isfinite() & x.isfinite() & (squares > 0)
    weights, x = squares[counted], x[counted]
    if not len(x):
        return None
    shares = weights * (x.square() + (weights * x.square()).sum() / weights.sum())
    sums = shares.cumsum(0).numpy()
    if not sums[-1] > 0:
        return None
    places = np.searchsorted(sums, random.random(most) * sums[-1], side="right").clip(max=len(sums) - 1)
    each = (weights / shares).numpy()[places] * (sums[-1] / most)
    return Weighted(x.float().numpy()[places], each)


def few_samples(network: fx.GraphModule, chunks: Sequence[Sequence[Tensor]]) -> list[tuple[Tensor, ...]]:
    """A few of the samples, in parts that a backward pass has the memory for."""
    at_once = min(_AT_ONCE, max(1, samples_that_fit(network, chunks[0]) // _KEPT))
    parts = [part for chunk in chunks for part in zip(*(x.split(at_once) for x in chunk), strict=True)]
    return parts[: max(1, _SAMPLES // len(parts[0][0]))]


def _rows(x: Tensor, samples: int) -> int:
    return samples if x.ndim and len(x) == samples else 1


def _signed(y: Tensor, generator: torch.Generator) -> Tensor:
    """The sum of an output with random signs, in units of its norm."""
    signs = torch.randint(0, 2, y.shape, generator=generator).to(y) * 2 - 1
    norm = y.detach().double().norm().clamp(min=1e-30).to(y)
    total: Tensor = (y / norm * signs).sum()
    return total


class _Tape(fx.Interpreter):
    """Runs the float network, and notes what quantizers would get."""

    def __init__(self, module: fx.GraphModule, *, of_weights: bool) -> None:
        super().__init__(module)
        self.of_weights = of_weights
        self.seen: dict[str, Tensor] = {}
        self.values = set[str]()

    def call_module(self, target: str, args: tuple[Tensor, ...], kwargs: dict[str, object]) -> object:  # type: ignore[override]
        module, x = self.fetch_attr(target), args[0]
        if isinstance(module, WeightQuantizer):
            x = x.detach()
            if self.of_weights:
                self.seen[module.name] = x.requires_grad_()
            return x
        if isinstance(module, ActivationQuantizer):
            self.values.add(module.name)
            self.seen[module.name] = x if x.requires_grad else x.detach().requires_grad_()
            return self.seen[module.name]
        return super().call_module(target, args, kwargs)
