"""How much the outputs of a float network hang on each of its quantized tensors, element by element."""

from __future__ import annotations

__all__ = ["Reached", "few_samples", "output_gradients", "output_histograms"]

import dataclasses
from collections.abc import Callable, Iterable, Iterator, Sequence

import torch
from torch import Tensor, fx

from mpqtool.quantizers import ActivationQuantizer, WeightQuantizer
from mpqtool.quantizers.observer import Histogram

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


def output_gradients(
    network: fx.GraphModule,
    chunks: Iterable[Sequence[Tensor]],
    *,
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
        on_samples: Is told the number of samples of every batch that is done.
        seed: Of the signs.

    Yields:
        By name, for every draw of signs and every chunk; without tensors that no output hangs on.
    """
    generator = torch.Generator().manual_seed(seed)
    for chunk in chunks:
        tape = _Tape(network)
        outputs = tape.run(*chunk)
        real = sum(y.is_floating_point() for y in outputs)  # one that hangs on nothing here has no noise
        for _ in range(_DRAWS):
            loss = sum(_signed(y, generator) for y in outputs if y.requires_grad) / real**0.5
            gradients = torch.autograd.grad(loss, [*tape.seen.values()], retain_graph=True, allow_unused=True)
            found = zip(tape.seen.items(), gradients, strict=True)
            yield {
                name: Reached(x.detach(), gradient, _rows(x, len(chunk[0])) if name in tape.values else 1)
                for (name, x), gradient in found
                if gradient is not None
            }
        on_samples(len(chunk[0]))


def output_histograms(
    network: fx.GraphModule, chunks: Iterable[Sequence[Tensor]], *, seed: int = 0
) -> dict[str, Histogram]:
    """The values of each activation, counted by how much the outputs hang on them: by squared gradients.

    The least squared error under these weights is the least that rounding and clipping of that value do to
    the outputs, as far as errors of elements are independent. Where a maximum is taken of many, only the
    ones that win count; a plain mean would clip them for the sake of the others.

    Source: the Hessian-guided ranges of PTQ4ViT (Yuan et al., ECCV 2022), section 3.3, with ``J^T J`` of
    ``output_gradients`` for the Hessian.

    Args:
        network: As for ``output_gradients``.
        chunks: Inputs, positional in graph order.
        seed: Of the signs.

    Returns:
        By name; none for a value that no output hangs on.
    """
    weights = {q.name for q in network.modules() if isinstance(q, WeightQuantizer)}
    found: dict[str, Histogram] = {}
    for draw in output_gradients(network, chunks, seed=seed):
        for name, reached in draw.items():
            if name in weights:
                continue
            squares = reached.gradient.double().square()
            counted = (
                squares > 0
            ) & reached.real.isfinite()  # masks of Softmax are far out, and do not count
            values, histogram = reached.real[counted], found.setdefault(name, Histogram(weighted=True))
            if len(values):
                histogram.add(values, reach=float(values.abs().max()), weights=squares[counted])
    return found


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

    def __init__(self, module: fx.GraphModule) -> None:
        super().__init__(module)
        self.seen: dict[str, Tensor] = {}
        self.values = set[str]()

    def call_module(self, target: str, args: tuple[Tensor, ...], kwargs: dict[str, object]) -> object:  # type: ignore[override]
        module, x = self.fetch_attr(target), args[0]
        if isinstance(module, WeightQuantizer):
            self.seen[module.name] = x.detach().requires_grad_()
            return self.seen[module.name]
        if isinstance(module, ActivationQuantizer):
            self.values.add(module.name)
            self.seen[module.name] = x if x.requires_grad else x.detach().requires_grad_()
            return self.seen[module.name]
        return super().call_module(target, args, kwargs)
