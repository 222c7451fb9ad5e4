"""Give the kernels of a depthwise layer one size."""

from __future__ import annotations

__all__ = ["RescaleDepthwisePass", "Rescaling", "depthwise_rescaling"]

import logging
from typing import NamedTuple

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from ..layers import groups, rescale, weight_of
from ..values import gathered_names, is_op
from .links import Link, find_links, log_left_alone
from .lock import Maxima, is_measured, unlocked

logger = logging.getLogger(__name__)

_SAME = 1e-6
"""Distance of a factor from 1 that is float32 rounding."""


class RescaleDepthwisePass(ir.passes.InPlacePass):
    """Give all kernels of a depthwise Conv the same largest weight, and undo it in the 1x1 Conv behind.

    Before: ``y = Conv(Relu(Conv<group=k>(x, w, b)), v)``
    After:  ``y = Conv(Relu(Conv<group=k>(x, g * w, g * b)), v / g)``, exact but for float32 rounding

    ``g[k] = target / max|w[k]|``, where the target is the median of ``max|w[k]|`` over the kernels that are
    not zero; of an even number, the lower one of the two in the middle, so that a second run finds the same
    target although some kernels are locked. A kernel of zeros has ``g = 1``.

    Source: Goncharenko et al., Fast Adjustable Threshold for Uniform Neural Network Quantization, 2019,
    on depthwise separable layers, with its lock of ReLU6.

    Between the layers may be what ``EqualizeLayersPass`` allows. Of a Clip with a ceiling, as of ReLU6, the
    channels that it cuts, or would, keep ``g = 1``, by the rule of ``lock.unlocked``; without ``maxima``,
    all of them.

    Left alone: what ``EqualizeLayersPass`` leaves alone, and layers that are not such a pair.

    The activations change with their factors: measure them again.

    Args:
        maxima: As for ``EqualizeLayersPass``.
    """

    def __init__(self, maxima: Maxima | None = None) -> None:
        self.maxima: Maxima = maxima or {}

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        found, _ = find_links(model.graph)
        pairs = [link for link in found if _is_separable(link)]
        unmeasured = [link for link in pairs if not is_measured(link, self.maxima)]
        rescaled = locked = 0
        with gathered_names(model.graph):
            for link in pairs:
                if link in unmeasured:
                    continue
                factors, free = _decided(link, self.maxima)
                locked += int((~free).sum())
                if (factors != 1).any():
                    rescale(link.source, rows=factors)
                    rescale(link.target, columns=1 / factors)
                    rescaled += 1
        if rescaled:
            logger.info("Rescaled %d depthwise layers, %d of their channels locked", rescaled, locked)
        names = [str(link.source.outputs[0].name) for link in unmeasured]
        log_left_alone({"no maxima of the Clip behind are given": names} if names else {})
        return ir.passes.PassResult(model, modified=bool(rescaled))


class Rescaling(NamedTuple):
    """What ``RescaleDepthwisePass`` does to a model.

    Attributes:
        layers: Depthwise layers that it looks at.
        channels: Their channels.
        rescaled: Those that get a factor.
        locked: Those that a Clip cuts, or would.
    """

    layers: int
    channels: int
    rescaled: int
    locked: int


def depthwise_rescaling(model: ir.Model, maxima: Maxima) -> Rescaling:
    """Count what ``RescaleDepthwisePass`` would do.

    Args:
        model: Normal form, BatchNormalization folded; left as it is.
        maxima: As for the pass.
    """
    found, _ = find_links(model.graph)
    pairs = [link for link in found if _is_separable(link) and is_measured(link, maxima)]
    decided = [_decided(link, maxima) for link in pairs]
    return Rescaling(
        layers=len(pairs),
        channels=sum(link.channels for link in pairs),
        rescaled=sum(int((factors != 1).sum()) for factors, _ in decided),
        locked=sum(int((~free).sum()) for _, free in decided),
    )


def _decided(link: Link, maxima: Maxima) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """The factors of the channels, and which channels are not locked."""
    wanted = _factors(link)
    free = unlocked(link, maxima, wanted)
    return np.where(free, wanted, 1), free


def _factors(link: Link) -> NDArray[np.float64]:
    weight = weight_of(link.source)
    sizes = np.abs(weight).reshape(len(weight), -1).max(axis=1).astype(np.float64)
    alive = sizes > 0
    if not alive.any():
        return np.ones(len(sizes))
    target = np.quantile(sizes[alive], 0.5, method="lower")
    factors = np.where(alive, target / np.where(alive, sizes, 1), 1)
    return np.where(np.abs(factors - 1) < _SAME, 1, factors)


def _is_separable(link: Link) -> bool:
    """Whether the link is from a depthwise Conv to one of 1x1."""
    depthwise, pointwise = weight_of(link.source), weight_of(link.target)
    return (
        is_op(link.target, "Conv")
        and depthwise.shape[1] == 1 < groups(link.source)
        and groups(link.target) == 1
        and all(size == 1 for size in pointwise.shape[2:])
    )
