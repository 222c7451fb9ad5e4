"""Activations with a learned clip: PACT, of any width without learning anew."""

from __future__ import annotations

__all__ = ["PactQuantizer"]

import torch
from torch import Tensor, nn

from mpqtool.passes.plan import ActivationQuant

from .activation import FakeQuantize
from .scales import restrain


class PactQuantizer(nn.Module):
    """Fake-quantize an activation that is clipped at alpha: ``x_hat = s * rint(clip(x, low, alpha) / s)``.

    ``s = alpha / (2**bits - 1 - z)`` and ``low = -z * s``. The zero point z is the same share of the codes at
    every width: none of them where no value is negative, half of them for signed values, whose codes are
    symmetric but for one more below, and less behind Swish. All widths share one alpha.

    ``d x_hat / d x = 1`` inside, else 0. ``d x_hat / d alpha = 1`` above alpha, ``low / alpha`` below low,
    ``(x_hat - x) / alpha`` inside: calibrated PACT, Jin et al., Towards efficient training for neural network
    quantization, equation 9. AdaQAT prints the indicator ``x <= alpha``, where the derivative is 0 (Choi et
    al., PACT, equation 3).

    Source: Gernigon et al., AdaQAT, section III-A.

    Args:
        name: The value this quantizes.
        bits: Width of a code, 1 to 8; 2 to 8 where values are negative.

    Shape:
        Input and output: any shape ``(batch, ...)``, same for both, float32. ``alpha``, ``share`` and
        ``bits``: ``()``.
    """

    bits: Tensor
    share: Tensor
    former_alpha: Tensor

    def __init__(self, name: str, bits: int) -> None:
        super().__init__()
        self.name = name
        self.elements = 0  # of one sample; known once a batch went through
        self.alpha = nn.Parameter(torch.tensor(torch.nan))  # set by the initialization
        self.register_buffer("former_alpha", torch.tensor(torch.nan))
        self.register_buffer("share", torch.tensor(0.0))
        self.register_buffer("bits", torch.tensor(bits))

    def code_range(self) -> tuple[int, int]:
        """The code of real 0, and the largest code."""
        levels: int = 2 ** int(self.bits)
        return min(round(float(self.share) * levels), levels - 2), levels - 1

    @property
    def zero_point(self) -> int:
        """The code of real 0."""
        return self.code_range()[0]

    @property
    def scale(self) -> Tensor:
        """Real units per code, ``()``."""
        zero_point, high = self.code_range()
        return self.alpha / (high - zero_point)

    @property
    def is_set(self) -> bool:
        """Whether there is a clip."""
        return not bool(self.alpha.isnan())

    @torch.no_grad()
    def set_numbers(self, *, alpha: float, share: float) -> None:
        """Set the clip that learning starts from, and the share of the codes that is below 0."""
        self.alpha.fill_(alpha)
        self.former_alpha.fill_(alpha)
        self.share.fill_(share)

    def restrain_scale(self) -> None:
        """Limit what a step of the optimizer did to the clip, which stays positive."""
        restrain(self.alpha, self.former_alpha)

    def pass_through(self, x: Tensor) -> Tensor:
        """What comes out while nothing is quantized."""
        self.elements = x[0].numel()
        return x

    def forward(self, x: Tensor) -> Tensor:
        self.elements = x[0].numel()
        zero_point, high = self.code_range()
        # Its gradient of the scale, divided by the largest code, is that of alpha.
        y: Tensor = FakeQuantize.apply(  # type: ignore[no-untyped-call]  # torch's apply has no types
            x.float(), self.alpha / (high - zero_point), zero_point, high, 1.0
        )
        return y

    def to_plan(self) -> ActivationQuant:
        """The plan entry of the present width and clip."""
        return ActivationQuant(
            name=self.name,
            bits=int(self.bits),
            scale=float(self.scale.detach()),
            zero_point=self.zero_point,
        )
