"""Integer forms of operators in torch: what each does to codes instead of real values."""

from __future__ import annotations

__all__ = ["INTEGER_FORMS", "Codes", "Pending", "WeightCodes", "as_real", "first", "quantize"]

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from mpqtool.passes.placement import MOVES

from .quantizers import ActivationQuantizer, round_ste

_FLOAT32_EXACT = 2**24


@dataclasses.dataclass(frozen=True)
class Codes:
    """Codes behind a quantizer, with the zero point taken off: real value ``scale * centered``."""

    centered: Tensor
    scale: Tensor
    zero_point: int
    high: int

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
    """

    rescale: Callable[[Tensor], Tensor]
    real: Callable[[], Tensor]
    late_zero: bool = False
    low: float | None = None
    high: float | None = None

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
    """What stands behind a quantizer: ``clamp(rint(value / scale) + zero_point, low, high)``."""
    scale, zero, high = quantizer.scale.detach(), int(quantizer.zero_point), quantizer.high
    if isinstance(value, Codes):  # a second scale for the same value
        value = value.real()
    if isinstance(value, Tensor):
        value = Pending(rescale=lambda s, x=value: x / s, real=lambda x=value: x)  # type: ignore[misc]
    assert isinstance(value, Pending)
    low_code, high_code = _code_of(value.low, scale, zero, high), _code_of(value.high, scale, zero, high)
    low_code, high_code = (0 if low_code is None else low_code), (high if high_code is None else high_code)
    over_scale = value.rescale(scale)
    rounded = round_ste(over_scale + zero) if value.late_zero else round_ste(over_scale) + zero
    return Codes(rounded.clamp(low_code, high_code) - zero, scale, zero, high)


def _code_of(bound: float | None, scale: Tensor, zero: int, high: int) -> int | None:
    """The code of a real bound: clipping and quantizing commute, as both are monotone."""
    if bound is None:
        return None
    return int((torch.round(torch.tensor(bound, device=scale.device) / scale) + zero).clamp(0, high))


def _weighted(
    op: Callable[..., Tensor], x: Any, weight: Any, bias: Tensor | None = None, *args: Any, **kwargs: Any
) -> Any:
    """A convolution or matrix product: an int32 accumulator in units of ``s_x * s_w``."""
    if not isinstance(x, Codes) or not isinstance(weight, WeightCodes):
        return NotImplemented
    unit = x.scale * weight.scale
    bias_codes = None if bias is None else round_ste(bias / unit)
    exact = torch.float32 if _largest_sum(x, weight, bias_codes) < _FLOAT32_EXACT else torch.float64
    with torch.backends.cudnn.flags(allow_tf32=False):
        acc = op(
            x.centered.to(exact),
            weight.codes.to(exact),
            None if bias_codes is None else bias_codes.to(exact),
            *args,
            **kwargs,
        ).float()
    channels = -1 if weight.codes.ndim == 2 else 1
    shape = [-1 if axis == channels % acc.ndim else 1 for axis in range(acc.ndim)]
    return Pending(
        rescale=lambda scale: acc * (unit / scale).view(shape),
        real=lambda: acc * unit.view(shape),
    )


@torch.no_grad()
def _largest_sum(x: Codes, weight: WeightCodes, bias: Tensor | None) -> float:
    """A bound on ``abs(acc)`` and all its partial sums, from the weights alone."""
    reach = max(x.zero_point, x.high - x.zero_point)
    sums = weight.codes.abs().flatten(1).sum(1) * reach
    return float((sums if bias is None else sums + bias.abs()).max())


def _relu(op: Callable[..., Tensor], x: Any) -> Any:
    return _clip(op, x, min=0.0)


def _clip(op: Callable[..., Tensor], x: Any, min: Any = None, max: Any = None) -> Any:  # torch's names
    if isinstance(min, Tensor) or isinstance(max, Tensor):
        return NotImplemented  # computed bounds are no fact about the graph
    if isinstance(x, Pending):
        return x.clipped(min, max)
    low, high = (
        None if bound is None else bound - x.zero_point
        for bound in (_code_of(limit, x.scale, x.zero_point, x.high) for limit in (min, max))
    )
    return x.with_centered(x.centered.clamp(low, high))


def _add(op: Callable[..., Tensor], a: Any, b: Any) -> Any:
    """``(a - z_a) * (s_a / s_y) + (b - z_b) * (s_b / s_y)``, the zero point of y added before rounding."""
    if not isinstance(a, Codes) or not isinstance(b, Codes):
        return NotImplemented
    return Pending(
        rescale=lambda scale: a.centered * (a.scale / scale) + b.centered * (b.scale / scale),
        real=lambda: a.real() + b.real(),
        late_zero=True,
    )


def _global_average(op: Callable[..., Tensor], x: Any) -> Any:
    """A sum of codes times ``s_x / (s_y * count)``."""
    if not isinstance(x, Codes):
        return NotImplemented
    count = x.centered[0, 0].numel()
    # float64: the sum of a large map can pass 2**24.
    total = x.centered.double().sum(tuple(range(2, x.centered.ndim)), keepdim=True).float()
    return Pending(
        rescale=lambda scale: total * (x.scale / (scale * count)),
        real=lambda: total * (x.scale / count),
    )


def _average(
    op: Callable[..., Tensor],
    x: Any,
    kernel: Sequence[int],
    stride: Sequence[int],
    pads: Sequence[int],
    count_padding: bool,
    dilation: Sequence[int],
    ceil_mode: bool,
    auto_pad: str,
) -> Any:
    """A sum of codes times ``(s_x * float32(1 / count)) / s_y``: a depthwise convolution with ones."""
    args = (stride, pads, count_padding, dilation, ceil_mode, auto_pad)
    count = math.prod(kernel)
    one_count = (count_padding or not any(pads)) and not ceil_mode and auto_pad in ("NOTSET", "VALID")
    if not isinstance(x, Codes) or not one_count:
        return NotImplemented
    # The mean of integers in float64 times their count is within 1e-9 of the sum: round to it.
    total = round_ste(op(x.centered.double(), kernel, *args) * count).float()
    unit = x.scale * torch.tensor(1 / count, dtype=torch.float32, device=x.scale.device)
    return Pending(rescale=lambda scale: total * (unit / scale), real=lambda: total * unit)


def _moved(op: Callable[..., Tensor], x: Any, *args: Any, **kwargs: Any) -> Any:
    """An operator that moves or picks values: it does the same to codes."""
    return x.with_centered(op(x.centered, *args, **kwargs)) if isinstance(x, Codes) else NotImplemented


INTEGER_FORMS: dict[str | None, Callable[..., Any]] = {
    "Conv": _weighted,
    "Gemm": _weighted,
    "Relu": _relu,
    "Clip": _clip,
    "Add": _add,
    "GlobalAveragePool": _global_average,
    "AveragePool": _average,
    **dict.fromkeys(("MaxPool", *MOVES), _moved),
}
