"""Weights on a grid of integer codes, one bit-width and one scale per kernel."""

from __future__ import annotations

__all__ = ["WeightQuantizer"]

import torch
from torch import Tensor, nn

from mpqtool.passes.arithmetic import NOTHING, code_range, fit_weight_scale
from mpqtool.passes.plan import Grid, WeightQuant

from .clips import clipped_scale


class WeightQuantizer(nn.Module):
    """Fake-quantize a weight kernel by kernel: ``w_hat[o] = scale[o] * code[o]``.

    What is quantized is ``factor[o]`` times the input, which is 1 but for folded weights in training.

    On the odd grid (mid-rise) a ``b``-bit kernel has the ``2**b`` codes ``2 * m + 1``, so the step
    between two levels is ``2 * scale``; at 8 bits, and on the other grids, ``code = rint(w / scale)``.
    The clip ``scale * code_range(b)[1]`` is fitted for the least squared error.

    The gradient reaches the weight unchanged, clipped or not: the straight-through estimator over a
    float master of IMPQ's Algorithm 1, lines 6 to 8. Scales are fitted, not trained.

    Source: Gonugondla and Shanbhag, IMPQ, section 4.1.

    Args:
        name: The initializer this quantizes.
        bits: One width per kernel, 0 to 8.
        grid: Which integers the codes are.
        elements: Weights of one kernel.
        shift: What files and integers shift the codes by; see ``WeightQuant``.

    Shape:
        Input and output ``(kernels, ...)``, float32. ``scale``, ``bits`` and ``factor``: ``(kernels,)``.
    """

    bits: Tensor
    scale: Tensor
    factor: Tensor

    def __init__(
        self, name: str, bits: tuple[int, ...], grid: Grid, *, elements: int, shift: int = 0
    ) -> None:
        super().__init__()
        self.name, self.grid, self.shift = name, grid, shift
        self.elements = elements
        self.register_buffer("bits", torch.tensor(bits))
        self.register_buffer("scale", torch.full((len(bits),), torch.nan))  # set by fit or load
        self.register_buffer("factor", torch.ones(len(bits)))

    @property
    def step(self) -> Tensor:
        """Distance of two neighbouring levels, ``(kernels,)``, in units of what is quantized.

        0 for kernels of zeros, which have ``NOTHING`` for a scale: quantization adds no noise to them.
        """
        step = self.scale if self.grid is not Grid.ODD else self.scale * torch.where(self.bits < 8, 2.0, 1.0)
        return torch.where(self.scale > NOTHING, step, 0)

    @torch.no_grad()
    def fit(self, weight: Tensor, clip: str = "mse") -> None:
        """Set every scale for the present widths.

        Args:
            weight: As for ``forward``.
            clip: ``mse``: the least squared error; else see ``clips.clipped_scale``.
        """
        weight = weight * self._per_kernel(self.factor, weight)
        if clip == "mse":
            scale = fit_weight_scale(weight.cpu().numpy(), self.bits.cpu().numpy(), self.grid)
            self.scale.copy_(torch.from_numpy(scale))
        else:
            self.scale.copy_(clipped_scale(weight, self.bits, self.grid, clip))

    def codes(self, weight: Tensor) -> Tensor:
        """Integer codes as float32; the gradient is that of ``factor * weight / scale``."""
        real = weight / self._per_kernel(self.scale / self.factor, weight)
        if bool((self.bits == 0).any()):  # these take no part, and BatchNormalization would make much of it
            real = real * self._per_kernel((self.bits > 0).to(weight), weight)
        codes: Tensor = _NearestCode.apply(  # type: ignore[no-untyped-call]  # torch's apply has no types
            real,
            self._per_kernel(self._on_odd_grid(), weight),
            *(self._per_kernel(bound, weight) for bound in self._code_range(weight)),
        )
        return codes

    def _on_odd_grid(self) -> Tensor:
        return (self.bits < 8) & (self.grid is Grid.ODD)

    def _code_range(self, like: Tensor) -> tuple[Tensor, Tensor]:
        ranges = torch.tensor([code_range(b, self.grid) for b in self.bits.tolist()])
        low, high = ranges.to(like).unbind(1)
        return low, high

    @staticmethod
    def _per_kernel(values: Tensor, weight: Tensor) -> Tensor:
        return values.view(-1, *[1] * (weight.ndim - 1))

    def forward(self, weight: Tensor) -> Tensor:
        return self.codes(weight) * self._per_kernel(self.scale, weight)

    def to_plan(self) -> WeightQuant:
        """The plan entry of the present widths and scales."""
        return WeightQuant(
            name=self.name,
            bits=tuple(self.bits.tolist()),
            grid=self.grid,
            scale=tuple(self.scale.double().tolist()),
            shift=self.shift,
        )


class _NearestCode(torch.autograd.Function):
    """The code nearest to ``real``, with the gradient of the identity."""

    @staticmethod
    def forward(ctx: object, real: Tensor, odd: Tensor, low: Tensor, high: Tensor) -> Tensor:
        nearest = torch.where(odd, 2 * torch.floor(real * 0.5) + 1, torch.round(real))
        return torch.minimum(torch.maximum(nearest, low), high)

    @staticmethod
    def backward(ctx: object, grad: Tensor) -> tuple[Tensor, None, None, None]:
        return grad, None, None, None
