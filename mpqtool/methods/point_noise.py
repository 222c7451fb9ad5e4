"""How much noise each quantizer adds to the outputs of a network, at every width."""

from __future__ import annotations

__all__ = ["Noise", "measure_alone", "point_noise"]

import dataclasses
import functools
from collections.abc import Callable, Iterable, Mapping, Sequence

import torch
from torch import Tensor, fx

from mpqtool.passes.arithmetic import fit_weight_scale
from mpqtool.quantizers import ActivationQuantizer, WeightQuantizer
from mpqtool.quantizers.attach import plain_activations, plain_weights
from mpqtool.quantizers.observer import Observer
from mpqtool.quantizers.ranges import mse

Noise = Mapping[str, Mapping[int, float]]
"""By name of a weight or value, and by width: share of noise in the power of the outputs."""

_DRAWS = 2
"""Random signs of the outputs for each batch."""


@dataclasses.dataclass
class _Seen:
    """A tensor on its way, what a width makes wrong, and how many samples its first axis tells apart."""

    real: Tensor
    error: Callable[[int], Tensor]
    rows: int = 1


def point_noise(
    network: fx.GraphModule,
    chunks: Iterable[Sequence[Tensor]],
    observers: Mapping[str, Observer],
    widths: Sequence[int],
    *,
    on_samples: Callable[[int], object] = lambda count: None,
    seed: int = 0,
) -> dict[str, dict[int, float]]:
    """What quantizing one tensor alone does to the outputs, for every tensor and width at once.

    In units of the power of each output, averaged over the outputs,

    ``D_j(b) = E |J_j (Q_b(x_j) - x_j)|**2 / E |y|**2``

    with the Jacobian ``J_j`` of the float network's outputs ``y`` by tensor j. One backward pass with random
    signs ``r`` of the outputs gives ``r J_j`` for all j, and ``E_r (r J_j d)**2 = |J_j d|**2``, as signs
    are independent: so no pass is needed for a width. It is the quadratic form of the Gauss-Newton, or
    Fisher, approximation, which has no first order: outputs as they are have the least divergence from
    themselves.

    Source: Hutchinson's estimator; the Fisher information of Kim et al., Fisher information guided
    quantization, and of BRECQ (Li et al., ICLR 2021, equation 10).

    Args:
        network: With attached quantizers, which do not quantize here. It is left as it was.
        chunks: Inputs, positional in graph order; more, smaller ones make better estimates.
        observers: Of each value, by name, which ranges at other widths are fitted to.
        widths: In bits.
        on_samples: Is told the number of samples of every batch that is done.
        seed: Of the signs.

    Returns:
        By name and width; infinite where a value is.
    """
    parameters = dict(network.named_parameters())
    weights, values = plain_weights(network), plain_activations(network)
    errors = {q.name: _weight_errors(q, parameters[q.name], widths) for q in weights}
    ranges = {
        q.name: {b: mse(observers[q.name], b, nonnegative=q.nonnegative) for b in widths} for q in values
    }
    totals = {name: dict.fromkeys(widths, 0.0) for name in (*errors, *ranges)}
    generator, batches = torch.Generator().manual_seed(seed), 0
    for chunk in chunks:
        tape = _Tape(network, errors, ranges, len(chunk[0]))
        outputs = tape.run(*chunk)
        tensors = [seen.real for seen in tape.seen.values()]
        real = sum(y.is_floating_point() for y in outputs)  # one that hangs on nothing here has no noise
        for _ in range(_DRAWS):
            loss = sum(_signed(y, generator) for y in outputs if y.requires_grad) / real**0.5
            gradients = torch.autograd.grad(loss, tensors, retain_graph=True, allow_unused=True)
            for (name, seen), gradient in zip(tape.seen.items(), gradients, strict=True):
                if gradient is None:
                    continue
                for bits in widths:
                    totals[name][bits] += _squared(gradient * seen.error(bits), seen.rows)
        batches += 1
        on_samples(len(chunk[0]))
    count = max(1, batches * _DRAWS)
    return {name: {b: _finite(t / count) for b, t in row.items()} for name, row in totals.items()}


@torch.no_grad()
def measure_alone(
    network: fx.GraphModule, chunks: Sequence[Sequence[Tensor]], names: Iterable[str]
) -> dict[str, float]:
    """What ``point_noise`` estimates, measured: each of these tensors quantized alone, as its quantizer is.

    Args:
        network: With attached quantizers that have their numbers.
        chunks: Inputs, positional in graph order.
        names: Of weights and values.
    """
    wanted = [_Alone(network, frozenset()).run(*chunk) for chunk in chunks]
    found = {}
    for name in names:
        alone = _Alone(network, frozenset({name}))
        found[name] = _distance([alone.run(*chunk) for chunk in chunks], wanted)
    return found


def _distance(found: Sequence[Sequence[Tensor]], wanted: Sequence[Sequence[Tensor]]) -> float:
    """Share of noise in the power of each output, averaged over the outputs."""
    shares = []
    for ours, theirs in zip(zip(*found, strict=True), zip(*wanted, strict=True), strict=True):
        if theirs[0].is_floating_point():
            noise = sum(float((a - b).double().square().sum()) for a, b in zip(ours, theirs, strict=True))
            power = sum(float(b.double().square().sum()) for b in theirs)
            shares.append(noise / max(power, 1e-30))
    return _finite(sum(shares) / max(1, len(shares)))


def _squared(products: Tensor, rows: int) -> float:
    """The square of the sum; that of each sample by itself has less variance, and signs are independent."""
    parts = products.reshape(rows, -1) if rows > 1 else products.reshape(1, -1)
    return float(parts.sum(1).double().square().sum())


def _finite(share: float) -> float:
    return share if share == share else float("inf")  # NaN is not equal to itself


def _signed(y: Tensor, generator: torch.Generator) -> Tensor:
    """The sum of an output with random signs, in units of its norm."""
    signs = torch.randint(0, 2, y.shape, generator=generator).to(y) * 2 - 1
    norm = y.detach().double().norm().clamp(min=1e-30).to(y)
    total: Tensor = (y / norm * signs).sum()
    return total


def _weight_errors(quantizer: WeightQuantizer, weight: Tensor, widths: Sequence[int]) -> dict[int, Tensor]:
    """What each width makes wrong, ``(kernels, ...)`` each."""
    real = weight.detach()
    found = {}
    for bits in widths:
        alike = torch.full_like(quantizer.bits, bits)
        trial = WeightQuantizer(
            quantizer.name, tuple(alike.tolist()), quantizer.grid, elements=quantizer.elements
        )
        scale = fit_weight_scale(real.numpy(), alike.numpy(), quantizer.grid)
        trial.scale.copy_(torch.from_numpy(scale))
        with torch.no_grad():
            found[bits] = trial(real) - real
    return found


class _Tape(fx.Interpreter):
    """Runs the float network, and notes what quantizers would get, and make of it."""

    def __init__(
        self,
        module: fx.GraphModule,
        errors: Mapping[str, dict[int, Tensor]],
        ranges: Mapping[str, Mapping[int, tuple[float, int]]],
        samples: int,
    ) -> None:
        super().__init__(module)
        self.errors, self.ranges, self.samples = errors, ranges, samples
        self.seen: dict[str, _Seen] = {}

    def call_module(self, target: str, args: tuple[Tensor, ...], kwargs: dict[str, object]) -> object:  # type: ignore[override]
        module, x = self.fetch_attr(target), args[0]
        if isinstance(module, WeightQuantizer):
            real = x.detach().requires_grad_()
            self.seen[module.name] = _Seen(real, self.errors[module.name].__getitem__)
            return real
        if isinstance(module, ActivationQuantizer):
            real = x if x.requires_grad else x.detach().requires_grad_()
            error = functools.partial(_value_error, real.detach(), self.ranges[module.name])
            rows = self.samples if real.ndim and len(real) == self.samples else 1
            self.seen[module.name] = _Seen(real, error, rows)
            return real
        return super().call_module(target, args, kwargs)


def _value_error(x: Tensor, ranges: Mapping[int, tuple[float, int]], bits: int) -> Tensor:
    scale, zero = ranges[bits]
    return torch.round(x / scale).clamp_(-zero, 2**bits - 1 - zero).mul_(scale).sub_(x)


class _Alone(fx.Interpreter):
    """Quantizes some tensors, and no other."""

    def __init__(self, module: fx.GraphModule, names: frozenset[str]) -> None:
        super().__init__(module)
        self.names = names

    def call_module(self, target: str, args: tuple[Tensor, ...], kwargs: dict[str, object]) -> object:  # type: ignore[override]
        module = self.fetch_attr(target)
        if isinstance(module, WeightQuantizer | ActivationQuantizer) and module.name not in self.names:
            return args[0]
        return super().call_module(target, args, kwargs)
