"""How much noise each quantizer adds to the outputs of a network, at every width."""

from __future__ import annotations

__all__ = ["Noise", "measure_alone", "point_noise"]

import functools
from collections.abc import Callable, Iterable, Mapping, Sequence

import torch
from torch import Tensor, fx

from mpqtool.passes.arithmetic import fit_weight_scale
from mpqtool.quantizers import ActivationQuantizer, WeightQuantizer
from mpqtool.quantizers.attach import plain_weights

from .gradients import output_gradients

Noise = Mapping[str, Mapping[int, float]]
"""By name of a weight or value, and by width: share of noise in the power of the outputs."""


def point_noise(
    network: fx.GraphModule,
    chunks: Iterable[Sequence[Tensor]],
    ranges: Mapping[str, Mapping[int, tuple[float, int]]],
    widths: Sequence[int],
    *,
    on_samples: Callable[[int], object] = lambda count: None,
    seed: int = 0,
) -> dict[str, dict[int, float]]:
    """What quantizing one tensor alone does to the outputs, for every tensor and width at once.

    In units of the power of each output, averaged over the outputs,

    ``D_j(b) = E |J_j (Q_b(x_j) - x_j)|**2 / E |y|**2``

    with the Jacobian ``J_j`` of the float network's outputs ``y`` by tensor j; see ``output_gradients``. One
    backward pass gives ``r J_j`` for all j, so that no pass is needed for a width.

    Source: the Fisher information of Kim et al., Fisher information guided quantization, and of BRECQ (Li et
    al., ICLR 2021, equation 10).

    Args:
        network: With attached quantizers, which do not quantize here. It is left as it was.
        chunks: Inputs, positional in graph order; more, smaller ones make better estimates.
        ranges: Scale and zero point of each value, by name and width.
        widths: In bits.
        on_samples: Is told the number of samples of every batch that is done.
        seed: Of the signs.

    Returns:
        By name and width; infinite where a value is.
    """
    parameters = dict(network.named_parameters())
    errors: dict[str, Callable[[Tensor, int], Tensor]] = {}
    for quantizer in plain_weights(network):
        of_weight = _weight_errors(quantizer, parameters[quantizer.name], widths)
        errors[quantizer.name] = functools.partial(lambda made, x, bits: made[bits], of_weight)
    errors |= {name: functools.partial(_value_error, of_value) for name, of_value in ranges.items()}
    totals = {name: dict.fromkeys(widths, 0.0) for name in errors}
    draws = 0
    for draw in output_gradients(network, chunks, on_samples=on_samples, seed=seed):
        for name, reached in draw.items():
            for bits in widths:
                error = errors[name](reached.real, bits)
                totals[name][bits] += _squared(reached.gradient * error, reached.rows)
        draws += 1
    count = max(1, draws)
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


def _value_error(ranges: Mapping[int, tuple[float, int]], x: Tensor, bits: int) -> Tensor:
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
