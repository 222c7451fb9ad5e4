"""Weights as DoReFa has them: odd codes of tanh(w), or of w where no BatchNormalization hides the gain."""

from __future__ import annotations

__all__ = ["DorefaWeightQuantizer", "Gain"]

import enum

import torch
from torch import Tensor

from mpqtool.passes.arithmetic import NOTHING
from mpqtool.passes.plan import Grid

from .weight import WeightQuantizer


class Gain(enum.StrEnum):
    """What a layer multiplies by, in place of its weights' own size.

    ``ONE``: The largest weight of the layer becomes 1; the BatchNormalization behind it hides that.
    ``CONSTANT``: The variance of the layer's output is kept at about 1, for training from scratch without
    BatchNormalization (Jin et al., Towards efficient training for neural network quantization, section 3.1).
    ``LEAST_SQUARES``: No tanh; each kernel keeps its size, by the least squared error.
    """

    ONE = "one"
    CONSTANT = "constant"
    LEAST_SQUARES = "least_squares"


class DorefaWeightQuantizer(WeightQuantizer):
    """Fake-quantize a weight to ``2**bits`` levels: ``w_q = c * code / n``, ``n = 2**bits - 1``.

    ``code`` is the odd integer next to ``n * tanh(w) / max|tanh(w)|``; this is ``2 * q(f(w) + 1/2) - 1``
    with ``code = 2 * m - n``, where ``m = rint((f(w) + 1/2) * n)`` is the integer of the paper. At 8 bits odd
    codes would need nine, and ``code`` is any integer of -127 to 127, ``n = 127``. What ``c`` is, and
    whether there is a tanh, is the ``gain``.

    The gradient is that of ``c * tanh(w) / max|tanh(w)|`` with a constant c and maximum. A kernel of 0 bits
    has the codes 0 and no gradient.

    Source: Gernigon et al., AdaQAT, section III-A; Zhou et al., DoReFa-Net, equation 9.

    Args:
        name: The initializer this quantizes.
        bits: One width per kernel, 0 to 8.
        elements: Weights of one kernel.
        gain: What c is.
        positions: Places of one kernel: height times width of a Conv's, 1 of a Gemm's.

    Shape:
        Input and output ``(kernels, ...)``, float32. ``scale`` and ``bits``: ``(kernels,)``.
    """

    def __init__(
        self, name: str, bits: tuple[int, ...], *, elements: int, gain: Gain, positions: int = 1
    ) -> None:
        super().__init__(name, bits, Grid.ODD, elements=elements)
        self.gain, self.positions = gain, positions

    def forward(self, weight: Tensor) -> Tensor:
        return super().forward(self.real(weight))

    def real(self, weight: Tensor) -> Tensor:
        """What the codes are nearest to, in units of the ``scale`` that belongs to it, which this sets."""
        weight = weight * self._per_kernel((self.bits > 0).to(weight), weight)  # the others take no part
        if self.gain is Gain.LEAST_SQUARES:
            unit = weight / _largest(weight.flatten(1), 1).view(-1, *[1] * (weight.ndim - 1))
        else:
            t = torch.tanh(weight)
            unit = t / _largest(t)
        self.scale = 1 / self._code_range(weight)[1].clamp(min=1)
        c = self._gain(weight, unit).detach()
        self.scale = self.scale * c
        return unit * self._per_kernel(c, weight)

    @torch.no_grad()
    def _gain(self, weight: Tensor, unit: Tensor) -> Tensor:
        """c, ``(kernels,)``, of weights whose largest is 1."""
        if self.gain is Gain.ONE:
            return torch.ones_like(self.scale)
        quantized = super().forward(unit)
        if self.gain is Gain.CONSTANT:
            outputs = len(weight) * self.positions
            # Weights that are all the same have no variance, and keep their size.
            c = (outputs * quantized.var(correction=0)).rsqrt().nan_to_num(posinf=1.0)
            return c.expand(len(weight))
        power = quantized.square().flatten(1).sum(1)
        return ((weight * quantized).flatten(1).sum(1) / power).nan_to_num(1.0).clamp(min=NOTHING)


def _largest(x: Tensor, *axes: int) -> Tensor:
    return x.detach().abs().amax(axes).clamp(min=NOTHING)
