"""Pixels 0 to 255 to what the model was trained on."""

from __future__ import annotations

__all__ = ["Pixels"]

import dataclasses
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mpqtool.errors import OptionError


@dataclasses.dataclass(frozen=True)
class Pixels:
    """``(pixel / 255 - mean) / std``, channel by channel; only the division where neither is given."""

    resize: tuple[int, int] | None = None
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None

    def scale(self, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Scale pictures of shape ``(samples, channels, height, width)``.

        Raises:
            OptionError: ``mean`` or ``std`` does not have one value, or one per channel.
        """
        scaled = pixels.astype(np.float32)
        scaled /= 255
        if self.mean is not None:
            scaled -= _per_channel("mean", self.mean, pixels.shape[1])
        if self.std is not None:
            scaled /= _per_channel("std", self.std, pixels.shape[1])
        return scaled

    def refuse_for(self, spec: str) -> None:
        """Raise OptionError if there is anything to do to data that holds no pixels."""
        for field in dataclasses.fields(self):
            if getattr(self, field.name) is not None:
                raise OptionError(
                    f"{field.name} applies to pictures only, and {spec!r} is taken as it is; leave it out"
                )


def _per_channel(name: str, values: tuple[float, ...], channels: int) -> NDArray[Any]:
    if len(values) not in (1, channels):
        raise OptionError(
            f"{name} needs one value, or one for each of the {channels} channels, got {len(values)}"
        )
    return np.asarray(values, np.float32).reshape(1, -1, 1, 1)
