"""What flows through the integer network: codes, weight codes, and results that wait for a quantizer."""

from __future__ import annotations

__all__ = ["Codes", "Pending", "WeightCodes", "as_real", "code_of", "first", "quantize"]

import dataclasses
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from mpqtool.quantizers import ActivationQuantizer, round_ste


@dataclasses.dataclass(frozen=True)
class Codes:
    """Codes behind a quantizer, with the zero point taken off: real value ``scale * centered``.

    That is the value without its ``offset``, which layers have in their biases, or, in front of a
    layer that pads with real zeros (``zeros_around``), in a map of the border.
    """

    centered: Tensor
    scale: Tensor
    zero_point: int
    high: int
    offset: float = 0.0
    zeros_around: bool = False

    def real(self) -> Tensor:
        return self.centered * self.scale

    def with_centered(self, centered: Tensor) -> Codes:
        return dataclasses.replace(self, centered=centered)


@dataclasses.dataclass(frozen=True)
class WeightCodes:
    """Weight codes and their scale per kernel."""

    codes: Tensor
    scale: Tensor


@dataclasses.dataclass(frozen=True)
class Pending:
    """A result that waits for its quantizer: it knows how to become codes of any scale.

    Attributes:
        rescale: Output scale -> real value over that scale, not rounded, float32.
        real: The value where no quantizer follows (a graph output, an island), float32.
        late_zero: The zero point is added before rounding (a sum), not after (everything else).
        low: Real lower bound that a Relu or Clip puts on it, or None.
        high: Real upper bound, or None.
        shifted: Offset -> the result less the offset, where there is a bias to take it off; None: it is taken
            off the real value.
    """

    rescale: Callable[[Tensor], Tensor]
    real: Callable[[], Tensor]
    late_zero: bool = False
    low: float | None = None
    high: float | None = None
    shifted: Callable[[float], Pending] | None = None

    def clipped(self, low: float | None, high: float | None) -> Pending:
        lows = [bound for bound in (self.low, low) if bound is not None]
        highs = [bound for bound in (self.high, high) if bound is not None]
        return dataclasses.replace(self, low=max(lows) if lows else None, high=min(highs) if highs else None)

    def value(self) -> Tensor:
        return (
            self.real() if self.low is None and self.high is None else self.real().clamp(self.low, self.high)
        )


def first(value: Any) -> Any:
    return value[0] if isinstance(value, list | tuple) and value else value


def as_real(value: Any) -> Any:
    """Replace codes, weights and pending results by the real values they stand for."""
    if isinstance(value, Codes):
        return value.real()
    if isinstance(value, Pending):
        return value.value()
    if isinstance(value, WeightCodes):
        return value.codes * value.scale.view(-1, *[1] * (value.codes.ndim - 1))
    if isinstance(value, tuple | list):
        return type(value)(as_real(entry) for entry in value)
    if isinstance(value, dict):
        return {key: as_real(entry) for key, entry in value.items()}
    return value


def quantize(value: Any, quantizer: ActivationQuantizer) -> Codes:
    """What stands behind a quantizer: ``clamp(rint((value - offset) / scale) + zero_point, low, high)``."""
    scale, zero, high = quantizer.scale.detach(), int(quantizer.zero_point), quantizer.high
    shift = quantizer.shift
    if isinstance(value, Codes):  # a second scale for the same value
        value = value.real()
    if shift and isinstance(value, Pending) and value.shifted is None:
        value = value.value()
    if isinstance(value, Tensor):
        centered = value - shift if shift else value
        value = Pending(rescale=lambda s: centered / s, real=lambda: centered)
    assert isinstance(value, Pending)
    low_code, high_code = (
        code_of(bound, scale, zero, high, offset=shift) for bound in (value.low, value.high)
    )
    low_code, high_code = (0 if low_code is None else low_code), (high if high_code is None else high_code)
    if shift and value.shifted is not None:
        value = value.shifted(shift)
    over_scale = value.rescale(scale)
    rounded = round_ste(over_scale + zero) if value.late_zero else round_ste(over_scale) + zero
    return Codes(rounded.clamp(low_code, high_code) - zero, scale, zero, high, offset=float(quantizer.offset))


def code_of(bound: float | None, scale: Tensor, zero: int, high: int, *, offset: float = 0.0) -> int | None:
    """The code of a real bound: clipping and quantizing commute, as both are monotone."""
    if bound is None:
        return None
    centered = torch.tensor(bound, device=scale.device) - offset
    return int((torch.round(centered / scale) + zero).clamp(0, high))
