"""How often a quantized network gives another answer than the float one: at most, and measured."""

from __future__ import annotations

__all__ = ["answers", "mismatch_bound", "without_floor"]

import dataclasses
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, fx

from .noise_gain import SampleGains, sample_gains
from .outputs import smallest_margins

_BATCH = 64


def mismatch_bound(gains: SampleGains, steps: Mapping[str, Tensor]) -> float:
    """Bound the probability that quantization changes the answer of a sample.

    ``p_m <= mean_n min(1, sum_G step_G**2 E_nG)``

    That is equation 1 of the paper with two changes. It prints ``2**-(B - 1)`` for the square of the step,
    which is the step itself where values go from -1 to 1. And it has no minimum: a probability is at most
    1, so each sample can be clipped, without which the few samples that lie next to a border between classes
    would make up nearly all of the mean.

    The gradients are those of the float network, so the bound is of first order in the noise, which is taken
    to be uniform within a step: what clips cut off is not in it.

    Source: Gonugondla and Shanbhag, IMPQ, equations 1 to 3.

    Args:
        gains: Of the float network, without a floor.
        steps: Of each weight that is quantized, ``(kernels,)``, and of each activation, ``()``.
    """
    assert gains.logits is not None  # without classes there is no answer
    total = torch.zeros(len(gains.logits), dtype=torch.float64)
    for name, step in steps.items():
        gain = gains.of[name].double()
        total += (gain.reshape(len(gain), -1) * step.detach().cpu().double().square()).sum(1)
    total[smallest_margins(gains.logits) == 0] = 1  # without a floor its classes are skipped
    return float(total.clamp(max=1).mean())


def without_floor(
    gains: SampleGains,
    network: fx.GraphModule,
    inputs: Sequence[Tensor],
    *,
    sums: str,
    ranks: int | None,
    seed: int,
) -> SampleGains:
    """The same gains of the float network with margins as they are: only samples below the floor change.

    Args:
        gains: Of these inputs, floored.
        network: A graph with quantizers.
        inputs: ``(samples, ...)`` each.
        sums: As in ``sample_gains``.
        ranks: As in ``sample_gains``.
        seed: As in ``sample_gains``.
    """
    assert gains.logits is not None  # the Fisher form has no margins
    rows = (smallest_margins(gains.logits) < gains.floor).nonzero()[:, 0]
    if not len(rows):
        return dataclasses.replace(gains, floor=0.0)
    fresh = sample_gains(
        network, [[x[rows.to(x.device)] for x in inputs]], sums=sums, ranks=ranks, seed=seed, floored=False,
        quantized=False,
    )  # fmt: skip
    exact = {name: gain.index_copy(0, rows, fresh.of[name]) for name, gain in gains.of.items()}
    return SampleGains(exact, gains.logits, 0.0)


@torch.no_grad()
def answers(network: fx.GraphModule, inputs: Sequence[Tensor]) -> Tensor:
    """The class of each sample, ``(samples,)``."""
    network.eval()
    batches = zip(*(x.split(_BATCH) for x in inputs), strict=True)
    return torch.cat([network(*batch)[0].argmax(1).cpu() for batch in batches])
