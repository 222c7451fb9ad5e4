"""Do the approximations rank kernels as the exact sum does, and does the ranking tell what to cut?"""

from __future__ import annotations

__all__ = ["agreement", "cuts"]

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, fx

from mpqtool.methods.mismatch import answers
from mpqtool.methods.noise_gain import NoiseGains, noise_gains
from mpqtool.quantizers import WeightQuantizer
from mpqtool.quantizers.attach import weight_quantizers

_PROBES = (1, 2, 4)
_SHARE = 0.2
"""Of the kernels, which lose bits."""


def agreement(network: fx.GraphModule, inputs: list[Tensor], seeds: range) -> dict[str, tuple[float, float]]:
    """Spearman rank correlation and relative error (rms) of noise gains of kernels, against all class ranks.

    Means over the seeds of the signs. The last one compares with other images: what sampling alone changes.
    """
    half = len(inputs[0]) // 2
    first, second = ([x[:half] for x in inputs], [x[half:] for x in inputs])
    exact = _vector(noise_gains(network, [first], sums="ranks"))
    found = {"runner-up": _compare(exact, _vector(noise_gains(network, [first], sums="runner-up")))}
    for probes in _PROBES:
        drawn = [
            _compare(exact, _vector(noise_gains(network, [first], probes=probes, seed=seed)))
            for seed in seeds
        ]
        found[f"signs, R = {probes}"] = tuple(np.mean(drawn, axis=0).tolist())
    found["all ranks, as many other images"] = _compare(
        exact, _vector(noise_gains(network, [second], sums="ranks"))
    )
    return found


def cuts(network: fx.GraphModule, inputs: list[Tensor], *, bits: int, seeds: range) -> dict[str, list[float]]:
    """Share of answers that change if a fifth of the kernels, all at the same width, lose two bits.

    Kernels are ranked by the square of the step times the noise gain: the least sensitive, drawn at random (a
    number for each seed), the most sensitive.
    """
    quantizers = [q for q in weight_quantizers(network) if isinstance(q, WeightQuantizer)]
    _set(network, quantizers, [torch.full_like(q.bits, bits) for q in quantizers])
    before = answers(network, inputs)
    gains = noise_gains(network, [inputs])
    terms = torch.cat([q.step.double() ** 2 * gains.weights[q.name] for q in quantizers])
    count = round(_SHARE * len(terms))
    order = terms.argsort(stable=True)
    drawn = [torch.from_numpy(np.random.default_rng(seed).permutation(len(terms))) for seed in seeds]
    found: dict[str, list[float]] = {"least": [], "random": [], "most": []}
    for name, chosen in (
        ("least", order),
        *(("random", places) for places in drawn),
        ("most", order.flip(0)),
    ):
        widths = torch.full((len(terms),), bits)
        widths[chosen[:count]] -= 2
        _set(network, quantizers, list(widths.split([len(q.bits) for q in quantizers])))
        found[name].append(float((answers(network, inputs) != before).double().mean()))
    return found


def _set(network: fx.GraphModule, quantizers: list[WeightQuantizer], widths: list[Tensor]) -> None:
    parameters = dict(network.named_parameters())
    for quantizer, bits in zip(quantizers, widths, strict=True):
        quantizer.bits.copy_(bits)
        quantizer.fit(parameters[quantizer.name])


def _vector(gains: NoiseGains) -> NDArray[np.float64]:
    return torch.cat(list(gains.weights.values())).numpy()


def _compare(exact: NDArray[np.float64], found: NDArray[np.float64]) -> tuple[float, float]:
    order = [values.argsort().argsort() for values in (exact, found)]
    error = np.sqrt(np.square(found / exact - 1).mean())
    return float(np.corrcoef(*order)[0, 1]), float(error)
