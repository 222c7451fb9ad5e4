"""Scales of weights that are clipped at a multiple of their size, as IMPQ clips them."""

from __future__ import annotations

__all__ = ["clipped_scale"]

import torch
from torch import Tensor

from mpqtool.passes.arithmetic import NOTHING, code_range
from mpqtool.passes.plan import Grid


def clipped_scale(weight: Tensor, bits: Tensor, grid: Grid, clip: str) -> Tensor:
    """The scale of each kernel whose range ends at the clip ``d``.

    ``paper4rms``: ``d`` is four root mean squares of the kernel; Gonugondla and Shanbhag, IMPQ, section 4.1.
    Below 5 bits that is far too wide. ``max``: the largest magnitude; the authors' code.

    On the odd grid ``2**bits`` steps of ``2 * scale`` fill ``-d ... d``, and levels are their middles; on the
    others ``d`` is the largest code.

    Args:
        weight: ``(kernels, ...)``.
        bits: ``(kernels,)``.
        grid: Which integers the codes are.
        clip: ``paper4rms`` or ``max``.

    Returns:
        ``(kernels,)``, positive, as ``fit_weight_scale`` gives it where there is nothing to fit.
    """
    rows = weight.detach().flatten(1)
    d = 4 * rows.square().mean(1).sqrt() if clip == "paper4rms" else rows.abs().amax(1)
    odd = (bits < 8) & (grid is Grid.ODD)
    highest = torch.tensor([code_range(b, grid)[1] for b in bits.tolist()]).to(d)
    scale = d / torch.where(odd, 2.0 ** bits.to(d), highest.clamp(min=1))
    nothing = torch.where(bits > 0, NOTHING, 1.0).to(d)
    return torch.where((scale > 0) & (bits > 0), scale, nothing)
