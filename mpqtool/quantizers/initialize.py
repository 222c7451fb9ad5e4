"""Where learned scales and offsets start from."""

from __future__ import annotations

__all__ = ["INITS", "initial_activation", "initial_clip", "initial_weight_scale"]

import dataclasses

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mpqtool.passes.arithmetic import NOTHING, code_range, fit_weight_scale
from mpqtool.passes.plan import Grid
from mpqtool.passes.roles import Role

from .learned_offset import OffsetQuantizer
from .observer import Reservoir
from .ranges import fit_codes

INITS = ("lsq+", "mse", "lsq", "minmax")

_SHRINKS = 40
"""Clips of each end that are tried before the gradient takes over."""
_TRIED = 2**12
"""Elements that they are tried on."""
_STEPS, _STEP = 100, 0.01
"""Steps of Adam, and their size as a share of the scale."""


def initial_weight_scale(weight: Tensor, bits: int, grid: Grid, init: str, *, per_kernel: bool) -> Tensor:
    """The scale of each kernel, or of the whole layer.

    ``lsq+``: ``max(|mu - 3 sigma|, |mu + 3 sigma|) / 2**(bits - 1)``; Bhalgat et al., LSQ+, section 3.2.1,
    with the signed mean (the paper's "same as <|w|>" would make it 27 % too large).
    ``mse``: the least squared error.
    ``lsq``: ``2 mean(|w|) / sqrt(p)``; Esser et al., Learned Step Size Quantization, section 2.1.
    ``minmax``: the smallest scale that clips nothing. Not ``(max - min) / (p - n)``, equation 7 of LSQ+:
    weights have no offset that would bring a range without 0, as that of a single element, onto the grid.

    On the odd grid, whose levels are two codes apart, ``lsq+`` and ``lsq`` are half of that.

    Args:
        weight: ``(kernels, ...)``, float32.
        bits: Width of every code.
        grid: Which integers the codes are.
        init: One of ``INITS``.
        per_kernel: Whether each kernel has a scale of its own.

    Returns:
        ``(kernels,)`` or ``(1,)``, positive. Where all weights are 0, it is 1, or ``NOTHING`` on a grid
        without 0.
    """
    rows = weight.detach().flatten(1) if per_kernel else weight.detach().reshape(1, -1)
    odd = grid is Grid.ODD and bits < 8
    levels = 2.0**bits
    if init == "lsq+":
        spread, mean = rows.std(1, correction=0), rows.mean(1)
        step = torch.maximum((mean - 3 * spread).abs(), (mean + 3 * spread).abs()) / (levels / 2)
    elif init == "mse":
        widths = np.full(len(rows), bits)
        return torch.from_numpy(fit_weight_scale(rows.cpu().numpy(), widths, grid)).to(weight)
    elif init == "lsq":
        largest = (levels - 1) / 2 if odd else code_range(bits, grid)[1]  # in steps, as the paper counts
        step = 2 * rows.abs().mean(1) / largest**0.5
    else:
        low, high = code_range(bits, grid)
        covering = torch.maximum(rows.amax(1) / high, rows.amin(1) / low)
        step = 2 * covering if odd else covering
    scale = step / 2 if odd else step
    return torch.where(scale > 0, scale, NOTHING if odd else 1.0)


def initial_activation(
    x: NDArray[np.float32], init: str, *, low: int, high: int, offset: bool
) -> tuple[float, float]:
    """The scale and offset of an activation.

    ``lsq+`` and ``mse``: the least squared error ``|x_hat - x|**2``; Bhalgat et al., LSQ+, equation 8. They
    give no optimizer: the best of a grid of clips, then Adam, if that makes it less.
    ``lsq``: ``2 mean(|x|) / sqrt(p)`` and no offset.
    ``minmax``: both ends of the range on both ends of the grid; equation 7. Without an offset, the
    smallest scale that clips nothing.

    Args:
        x: Values, any shape.
        init: One of ``INITS``.
        low: The smallest code, n.
        high: The largest code, p.
        offset: Whether there is an offset.

    Returns:
        Scale and offset; the scale is 1 where all values are 0.
    """
    smallest, largest = float(x.min(initial=0)), float(x.max(initial=0))
    if smallest == largest:
        return 1.0, 0.0
    if init == "lsq":
        return float(2 * np.abs(x).mean() / max(high, 1) ** 0.5), 0.0
    if offset and x.min() < x.max():  # a constant is exact at one end, real 0 at the other
        smallest, largest = float(x.min()), float(x.max())  # real 0 need not be in the range
    start = _covering(smallest, largest, low, high, offset)
    if init == "minmax":
        return start.scale, start.beta
    return _least_error(x, smallest, largest, low, high, offset)


def initial_clip(x: NDArray[np.float32], role: Role, *, bits: int) -> tuple[float, float]:
    """The clip of an activation with the least squared error, and the share of the codes that is below 0.

    Args:
        x: Values, any shape.
        role: Whether values are negative, and how many; signed ones have half of the codes below 0.
        bits: Width of a code.
    """
    share = 0.5 if role is Role.SIGNED else 0.0
    if role is Role.SKEWED:  # few bits would leave nothing below 0, for wider ones too
        _, zero_point = fit_codes(x, 8, nonnegative=False)
        share = zero_point / 2**8
    below = min(round(share * 2**bits), 2**bits - 2)
    above = 2**bits - 1 - below
    scale, _ = initial_activation(x, "mse", low=-below, high=above, offset=False)
    return scale * above, share


@dataclasses.dataclass(frozen=True)
class _Numbers:
    scale: float
    beta: float


def _covering(smallest: float, largest: float, low: int, high: int, offset: bool) -> _Numbers:
    """Equation 7: no value is clipped."""
    if offset:
        scale = (largest - smallest) / (high - low)
        return _Numbers(scale, smallest - low * scale)
    needed = max(largest / high if high else 0.0, smallest / low if low else 0.0)
    # Values with no code on their side become 0 now; should training move them, the scale is of their size.
    return _Numbers(needed or max(largest, -smallest) / max(high, 1), 0.0)


def _least_error(
    x: NDArray[np.float32], smallest: float, largest: float, low: int, high: int, offset: bool
) -> tuple[float, float]:
    values = torch.from_numpy(x).flatten()
    few = _drawn(values)
    shrinks = [step / _SHRINKS for step in range(_SHRINKS, 0, -1)]
    tried = [
        _covering(smallest * below, largest * above, low, high, offset)
        for above in shrinks
        for below in (shrinks if offset and smallest < 0 else [1.0 if offset else above])
    ]
    best = min(tried, key=lambda numbers: _error(few, numbers, low, high))
    return _refined(values, best, low, high, offset)


def _drawn(values: Tensor) -> Tensor:
    """Some of many values, always the same; every n-th could miss whole channels."""
    reservoir = Reservoir(_TRIED)
    reservoir.add(values)
    return torch.from_numpy(reservoir.sample).to(values)


def _error(values: Tensor, numbers: _Numbers, low: int, high: int) -> float:
    codes = ((values - numbers.beta) / numbers.scale).round_().clamp_(low, high)
    return float((codes.mul_(numbers.scale).add_(numbers.beta) - values).square().mean())


def _refined(values: Tensor, start: _Numbers, low: int, high: int, offset: bool) -> tuple[float, float]:
    """Follow the gradient of the error; the start, if that leads to no better end."""
    quantizer = OffsetQuantizer("", (high - low + 1).bit_length() - 1, low=low, learned=offset)
    quantizer.set_numbers(scale=start.scale, beta=start.beta)
    learned = [p for p in quantizer.parameters() if p.requires_grad]
    optimizer = torch.optim.Adam(learned, lr=_STEP * start.scale)
    for _ in range(_STEPS):
        optimizer.zero_grad()
        y, zero = quantizer(values)
        (y + zero - values).square().mean().backward()
        optimizer.step()
        quantizer.restrain_scale()
    end = _Numbers(float(quantizer.learned_scale.detach()), float(quantizer.beta.detach()))
    best = min((start, end), key=lambda numbers: _error(values, numbers, low, high))
    return best.scale, best.beta
