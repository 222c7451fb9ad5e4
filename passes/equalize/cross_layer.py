"""Give each channel weights of like size in the layers that make and use it."""

from __future__ import annotations

__all__ = ["EqualizeLayersPass"]

import logging
from collections.abc import Sequence

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from ..layers import by_channel, channels, groups, rescale
from ..values import gathered_names
from .links import Link, find_links, log_left_alone
from .lock import Maxima, is_measured, unlocked

logger = logging.getLogger(__name__)

_DEAD = 1e-8
"""Part of the largest kernel of a layer: one at or below it is rounding, and would get a huge factor."""
_SWEEPS = 500
_SETTLED = 1e-4
"""Largest change of the factors, as a logarithm, at which no more are looked for."""
_WORTH = 1e-2
"""Factors all within this of 1 are what another run would find in what this one has left."""

Factors = NDArray[np.float64]


class EqualizeLayersPass(ir.passes.InPlacePass):
    """Move factors of the channels between layers that follow each other, until their weights are alike.

    Before: ``y = Conv(Relu(Conv(x, w1, b1)), w2, b2)``
    After:  ``y = Conv(Relu(Conv(x, w1 / S, b1 / S)), w2 * S, b2)``, exact but for float32 rounding

    With ``r1[i] = max|w1[i]|`` and ``r2[i] = max|w2[:, i]|``, ``S = sqrt(r1 / r2)`` makes both
    ``sqrt(r1 * r2)``. Where a depthwise layer is in the middle, for ``c = (r1 * r2 * r3) ** (1 / 3)``,
    ``S12 = r1 / c`` and ``S23 = c / r3`` make all three ``c``; longer rows of depthwise layers likewise. As
    layers are part of two such chains, all chains are gone through until no factor changes by more than
    0.01 %, at most 500 times. If no factor is 1 % or more then, nothing is changed.

    Source: Nagel et al., Data-Free Quantization Through Weight Equalization and Bias Correction, ICCV 2019,
    equation 11 and appendix A; three layers as in AIMET's cross-layer equalization.

    Between the layers may be Relu, LeakyRelu, PRelu, Identity, pools, one positive number as a factor,
    Flatten, Reshape that keeps channels together, and Clip whose floor is 0, or that has none. One with a
    ceiling, as of ReLU6, is exact only for channels that it never cuts, which ``maxima`` tell: the others
    keep their factor, by the rule of ``lock.unlocked``.

    Left alone, with a line for each reason: a result that is a graph output or has other users; all other
    operators; weights that are not constant or that other nodes use. A channel with a kernel of zeros, or
    one of ``1e-8`` of the largest, has ``S = 1``.

    The activations change with their factors: measure them again.

    Args:
        maxima: By name of the values of ``clipped_values``: the largest number in each channel, on data;
            others are not looked at. None: pairs with such a Clip between stay as they are.
    """

    def __init__(self, maxima: Maxima | None = None) -> None:
        self.maxima: Maxima = maxima or {}

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        found, alone = find_links(model.graph)
        links = [link for link in found if is_measured(link, self.maxima)]
        for link in found:
            if link not in links:
                name = str(link.source.outputs[0].name)
                alone.setdefault("no maxima of the Clip behind are given", []).append(name)
        totals, sweeps = _settle(links, self.maxima)
        scaled = sum(bool((total != 1).any()) for total in totals)
        if scaled:
            with gathered_names(model.graph):
                _apply(links, totals)
            logger.info("Equalized %d of %d pairs of layers in %d sweeps", scaled, len(found), sweeps)
        log_left_alone(alone)
        return ir.passes.PassResult(model, modified=bool(scaled))


def _settle(links: Sequence[Link], maxima: Maxima) -> tuple[list[Factors], int]:
    """What the channels of each link are to be multiplied by, and in how many sweeps that was found."""
    ranges = _Ranges(links)
    chains = _chains(links)
    totals = {link.source: np.ones(link.channels) for link in links}
    largest, sweeps = np.inf, 0
    while largest >= _SETTLED and sweeps < _SWEEPS:
        largest, sweeps = 0.0, sweeps + 1
        for chain in chains:
            for link, step in zip(chain, ranges.steps(chain), strict=True):
                total = totals[link.source]
                step[~unlocked(link, maxima, total * step)] = 1
                largest = max(largest, float(np.abs(np.log(step)).max()))
                total *= step
                ranges.multiply(link, step)
    if all((np.abs(np.log(total)) < _WORTH).all() for total in totals.values()):
        return [np.ones(link.channels) for link in links], sweeps
    return list(totals.values()), sweeps


def _chains(links: Sequence[Link]) -> list[list[Link]]:
    """Links in a row, a depthwise layer between two; one with a Clip stays by itself, for its lock."""
    from_layer = {link.source: link for link in links}
    chains: list[list[Link]] = []
    joined: set[ir.Node] = set()
    for link in links:
        if link.source in joined:
            continue
        chain = [link]
        while (behind := from_layer.get(chain[-1].target)) is not None and _is_free(chain[-1], behind):
            chain.append(behind)
            joined.add(behind.source)
        chains.append(chain)
    return chains


def _is_free(link: Link, behind: Link) -> bool:
    """Whether two links can be equalized at once: through one kernel for each channel, without a Clip."""
    depthwise = groups(behind.source) == link.channels == behind.channels
    return depthwise and not link.clips and not behind.clips


class _Ranges:
    """The largest absolute weight between each channel and each kernel, ``(groups, kernels, channels)``."""

    def __init__(self, links: Sequence[Link]) -> None:
        blocks = {link.source: channels(link.source) for link in links}
        blocks |= {link.target: link.channels for link in links}
        self._sizes = {
            layer: np.abs(by_channel(layer, count)).max(axis=-1).astype(np.float64)
            for layer, count in blocks.items()
        }

    def steps(self, chain: Sequence[Link]) -> list[Factors]:
        """What each link of a chain is to be multiplied by next."""
        sizes = np.stack([self._sizes[link.source].max(axis=2).reshape(-1) for link in chain])
        last = self._sizes[chain[-1].target].max(axis=1).reshape(1, -1)
        sizes = np.concatenate([sizes, last])
        dead = ~((sizes > _DEAD * sizes.max(axis=1, keepdims=True)) & np.isfinite(sizes)).all(axis=0)
        sizes[:, dead] = 1
        mean = np.exp(np.log(sizes).mean(axis=0))
        return list(np.cumprod(mean / sizes, axis=0)[:-1])

    def multiply(self, link: Link, factors: Factors) -> None:
        """Note that the channels of a link are multiplied."""
        source, target = self._sizes[link.source], self._sizes[link.target]
        source *= factors.reshape(len(source), -1, 1)
        target /= factors.reshape(len(target), 1, -1)


def _apply(links: Sequence[Link], totals: Sequence[Factors]) -> None:
    """Change the weights and biases, each layer once."""
    behind = {link.source: total for link, total in zip(links, totals, strict=True)}
    before = {link.target: 1 / total for link, total in zip(links, totals, strict=True)}
    for layer in {**behind, **before}:
        rescale(layer, rows=behind.get(layer), columns=before.get(layer))
