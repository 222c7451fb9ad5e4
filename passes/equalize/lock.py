"""Which channels a Clip leaves as they are."""

from __future__ import annotations

__all__ = ["Maxima", "clipped_values", "is_measured", "unlocked"]

from collections.abc import Mapping

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from ..errors import PassError
from .links import Link, ceiling, find_links

Maxima = Mapping[str, NDArray[np.floating]]
"""By name of a value: its largest number in each channel, on data; for the output of a Clip."""

_SATURATED = 5.9 / 6
"""Part of the ceiling from which on a channel counts as clipped: data not measured may lie above."""


def clipped_values(model: ir.Model) -> tuple[str, ...]:
    """Outputs of the Clip nodes with a ceiling between two layers: whose maxima are to be measured.

    Args:
        model: Normal form, BatchNormalization folded.
    """
    links, _ = find_links(model.graph)
    return tuple(_name(clip) for link in links for clip in link.clips)


def is_measured(link: Link, maxima: Maxima) -> bool:
    """Whether the maxima of all Clip nodes between two layers are known."""
    return all(_name(clip) in maxima for clip in link.clips)


def unlocked(link: Link, maxima: Maxima, factors: NDArray[np.float64]) -> NDArray[np.bool_]:
    """The channels that no Clip between two layers cuts, neither as they are nor times ``factors``.

    Source: the lock rule for ReLU6 of FAT (Goncharenko et al., 2019): the channel stays below 5.9, and
    times its factor at most 6; other ceilings in proportion.

    Args:
        link: All measured.
        maxima: On data, of the model as it is.
        factors: ``(channels,)``, positive.

    Raises:
        PassError: There is not one maximum for each channel.
    """
    free = np.ones(link.channels, np.bool_)
    for clip in link.clips:
        top, seen = ceiling(clip), np.asarray(maxima[_name(clip)], np.float64)
        assert top is not None  # follow() has looked
        if seen.ndim != 1 or not seen.size or seen.size % link.channels:
            raise PassError(
                f"Cannot use the maxima of {_name(clip)!r}: their shape is {list(seen.shape)}, allowed is "
                f"[{link.channels}], one for each channel. Measure them on axis 1."
            )
        largest = seen.reshape(link.channels, -1).max(axis=1)
        free &= (largest < _SATURATED * top) & (largest * factors <= top)
    return free


def _name(clip: ir.Node) -> str:
    return str(clip.outputs[0].name)
