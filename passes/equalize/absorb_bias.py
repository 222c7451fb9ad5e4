"""Move what a channel always has at least into the bias of the layer behind."""

from __future__ import annotations

__all__ = ["AbsorbBiasPass", "ChannelStatistics", "absorbable_values"]

import logging
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from ..errors import PassError
from ..layers import bias_of, by_channel, is_padded, set_bias
from ..values import gathered_names, int_attribute, is_op
from .links import Link, find_links, log_left_alone

logger = logging.getLogger(__name__)

_SHIFTED = (
    "Flatten", "GlobalAveragePool", "GlobalMaxPool", "Identity", "LeakyRelu", "MaxPool", "PRelu", "Relu",
    "Reshape",
)  # fmt: skip
"""What gives ``f(x - c) = f(x) - c`` for ``x >= c >= 0``; AveragePool does too, unless it counts padding."""


class ChannelStatistics(NamedTuple):
    """What the result of a layer is like on data, channel by channel, ``(channels,)`` each.

    Attributes:
        mean: Over samples and positions.
        std: Standard deviation, likewise.
        minimum: The least number.
    """

    mean: NDArray[np.floating]
    std: NDArray[np.floating]
    minimum: NDArray[np.floating]


class AbsorbBiasPass(ir.passes.InPlacePass):
    """Take from each channel between two layers a number that it never falls below.

    Before: ``y = Conv(Relu(Conv(x, w1, b1)), w2, b2)``
    After:  ``y = Conv(Relu(Conv(x, w1, b1 - c)), w2, b2 + w2 @ c)``, ``w2`` summed over its window

    ``c = max(0, mean - 3 * std)``, but not more than the minimum, of what the first layer gives: then
    ``Relu(t - c) = Relu(t) - c`` for all data that the statistics are of, exact but for float32 rounding.
    On other data a number ``t < c`` is off by ``c - t`` at most: for normal values, 1 in 741 would be.
    The range that the activation needs gets smaller by ``c``.

    Source: Nagel et al., Data-Free Quantization Through Weight Equalization and Bias Correction, ICCV 2019,
    section 4.1.3, equations 12 to 15; there ``mean`` and ``std`` are those of BatchNormalization, and no
    minimum is known.

    Zeros that the second layer pads with would have to become ``-c``, and no number in the bias can do
    that: a layer with padding takes ``w2 @ c`` less at the border. Such a layer is left alone.

    Also left alone: what ``EqualizeLayersPass`` leaves alone, a Clip, a factor, AveragePool that counts
    padding, and layers without statistics.

    Args:
        statistics: By name of the values of ``absorbable_values``; others are not looked at.
    """

    def __init__(self, statistics: Mapping[str, ChannelStatistics]) -> None:
        self.statistics = statistics

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        links, alone = find_links(model.graph)
        absorbed = 0
        with gathered_names(model.graph):
            for link in links:
                name = str(link.source.outputs[0].name)
                reason = _obstacle(link)
                if reason is None and name not in self.statistics:
                    reason = "no statistics are given"
                if reason is None:
                    absorbed += _absorb(link, self.statistics[name])
                else:
                    alone.setdefault(reason, []).append(name)
        if absorbed:
            logger.info("Absorbed the biases of %d channels", absorbed)
        log_left_alone(alone)
        return ir.passes.PassResult(model, modified=bool(absorbed))


def absorbable_values(model: ir.Model) -> tuple[str, ...]:
    """Results of layers that ``AbsorbBiasPass`` can take a bias from: whose statistics are to be measured.

    Args:
        model: Normal form, BatchNormalization folded.
    """
    links, _ = find_links(model.graph)
    return tuple(str(link.source.outputs[0].name) for link in links if _obstacle(link) is None)


def _obstacle(link: Link) -> str | None:
    """Why a number cannot be taken from the channels between two layers; None if it can."""
    if is_padded(link.target):
        return "the layer behind pads with zeros"
    for node in link.path:
        counts = is_op(node, "AveragePool") and int_attribute(node, "count_include_pad", 0)
        if not is_op(node, *_SHIFTED, "AveragePool") or (counts and is_padded(node)):
            return f"{node.op_type} behind does not keep a shift"
    return None


def _absorb(link: Link, statistics: ChannelStatistics) -> int:
    """Change the two biases; return how many channels have one that was absorbed."""
    mean, std, minimum = (np.asarray(numbers, np.float64) for numbers in statistics)
    for numbers in (mean, std, minimum):
        if numbers.shape != (link.channels,):
            raise PassError(
                f"Cannot use the statistics of {link.source.outputs[0].name!r}: their shape is "
                f"{list(numbers.shape)}, allowed is [{link.channels}], one for each channel. "
                "Measure them on axis 1."
            )
    shift = np.maximum(np.minimum(mean - 3 * std, minimum), 0)
    shift = np.where(np.isfinite(shift), shift, 0)
    if not shift.any():
        return 0
    weight = by_channel(link.target, link.channels).sum(axis=-1, dtype=np.float64)
    moved = np.einsum("gkc,gc->gk", weight, shift.reshape(len(weight), -1)).reshape(-1)
    for layer, change in ((link.source, -shift), (link.target, moved)):
        bias = bias_of(layer)
        set_bias(layer, np.asarray((0 if bias is None else bias) + change, np.float32))
    return int((shift > 0).sum())
