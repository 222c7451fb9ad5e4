"""Activations on unsigned integer codes with a learned scale."""

from __future__ import annotations

__all__ = ["ActivationQuantizer", "FakeQuantize", "on_three"]

from typing import Any, Literal

import torch
from torch import Tensor, nn

from mpqtool.passes.functions import HARD_SWISH_REACH
from mpqtool.passes.plan import ActivationQuant

from .rounding import round_ste
from .scales import dot, gradient_scale, restrain

_LEAST_REACH = 16
"""From here on, rounding real 3 to whole codes changes a scale by 3 % at most."""
_LEAST = -1e30
"""Stands for the infinity that a mask adds, which times a gradient of 0 is no number."""


class ActivationQuantizer(nn.Module):
    """Fake-quantize an activation.

    ``x_hat = scale * (clamp(rint((x - offset) / scale) + zero_point, 0, 2**bits - 1) - zero_point)``

    That is without the offset, as in the QDQ file: the layers behind have it in their biases (``attach``),
    and pad with it where they pad with 0.

    The scale is trained with LSQ's gradient (``FakeQuantize``), the zero point and the offset are fixed.
    With the zero point 0 this is configuration 1 of LSQ+, with ``2**(bits - 1)`` it is configuration 2.

    Args:
        name: The value this quantizes.
        bits: Width of a code, 1 to 8.
        zero_point: The code of real 0, or None until calibrated.
        nonnegative: Whether the value cannot be negative, so that the zero point is always 0.
        offset: What the zero point stands for.
        padding: What layers pad the value with; see ``ActivationQuant``.
        carried: Whether the offset is taken off already by what comes before, as behind an average.
        before_hard_swish: Whether a HardSwish uses the value: then real 3 is rounded to whole codes, if
            HardSwish is a product of codes then (``passes.functions.hard_swish_reach``).
        softmax_axis: The axis of a Softmax that uses the value, or None. What a mask sets far below the rest
            is out of the range then.

    Shape:
        Input and output: any shape ``(batch, ...)``, same for both, float32. ``learned_scale``: ``()``.
    """

    bits: Tensor
    zero_point: Tensor
    offset: Tensor
    former_scale: Tensor

    def __init__(
        self,
        name: str,
        bits: int,
        *,
        zero_point: int | None,
        nonnegative: bool,
        offset: float = 0.0,
        padding: Literal["offset", "zero"] = "offset",
        carried: bool = False,
        before_hard_swish: bool = False,
        softmax_axis: int | None = None,
    ) -> None:
        super().__init__()
        self.name, self.nonnegative = name, nonnegative
        self.padding, self.carried = padding, carried
        self.before_hard_swish = before_hard_swish
        self.softmax_axis = softmax_axis
        self.elements = 0  # of one sample; known once a batch went through
        self.learned_scale = nn.Parameter(torch.tensor(torch.nan))  # set by calibration, or from the plan
        self.register_buffer("former_scale", torch.tensor(torch.nan))
        self.register_buffer("bits", torch.tensor(bits))
        self.register_buffer("zero_point", torch.tensor(-1 if zero_point is None else zero_point))
        self.register_buffer("offset", torch.tensor(offset))

    @property
    def scale(self) -> Tensor:
        """Real units per code, ``()``."""
        scale: Tensor = self.learned_scale
        return on_three(scale, self.zero_point) if self.before_hard_swish else scale

    @property
    def high(self) -> int:
        """The largest code."""
        return int(2 ** int(self.bits) - 1)

    @property
    def shift(self) -> float:
        """What is to be taken off the value."""
        return 0.0 if self.carried else float(self.offset)

    @property
    def is_set(self) -> bool:
        """Whether there are a scale and a zero point."""
        return not bool(self.learned_scale.isnan()) and int(self.zero_point) >= 0

    @torch.no_grad()
    def set_numbers(self, *, scale: float, zero_point: int) -> None:
        """Set the scale that learning starts from, and the zero point."""
        self.learned_scale.fill_(scale)
        self.former_scale.fill_(scale)
        self.zero_point.fill_(zero_point)

    def restrain_scale(self) -> None:
        """Limit what a step of the optimizer did to the scale."""
        restrain(self.learned_scale, self.former_scale)

    def pass_through(self, x: Tensor) -> Tensor:
        """What comes out while nothing is quantized."""
        self.elements = x[0].numel()
        return x

    def forward(self, x: Tensor) -> Tensor:
        zero_point, high, shift = int(self.zero_point), self.high, self.shift
        x = x.float()  # autocast may give less
        if shift:
            x = x - shift
        if self.softmax_axis is not None:
            x = x.clamp(min=_LEAST)
        self.elements = x[0].numel()
        damping = gradient_scale(self.elements, high - zero_point)
        y: Tensor = FakeQuantize.apply(  # type: ignore[no-untyped-call]  # torch's apply has no types
            x, self.scale, zero_point, high, damping
        )
        return y

    def to_plan(self) -> ActivationQuant:
        """The plan entry of the present width, scale and zero point."""
        return ActivationQuant(
            name=self.name,
            bits=int(self.bits),
            scale=float(self.scale.detach()),
            zero_point=int(self.zero_point),
            offset=float(self.offset),
            padding=self.padding,
        )


def on_three(scale: Tensor, zero_point: Tensor) -> Tensor:
    """The scale next to this one of which real 3 is a whole number of codes; or this one, where none is near.

    HardSwish is a product of codes then, in a third of the time (``passes.functions.hard_swish_reach``).

    Args:
        scale: ``()``; the gradient passes.
        zero_point: ``()``.
    """
    three = scale.new_tensor(3.0)  # a number divided by a tensor would be rounded twice
    reach = round_ste(three / scale)
    fits = (reach >= _LEAST_REACH) & (reach <= zero_point.clamp(min=HARD_SWISH_REACH))
    return torch.where(fits, three / reach.clamp(min=1), scale)


class FakeQuantize(torch.autograd.Function):
    """LSQ's quantizer with a zero point; ``v = x / s``, ``n = -z``, ``p = high - z``.

    ``d y / d x = 1`` where ``n < v < p``, else 0.
    ``d y / d s = rint(v) - v`` where ``n < v < p``, ``n`` where ``v <= n``, ``p`` where ``v >= p``.
    Source: Bhalgat et al., LSQ+, equations 3 and 4, times the ``damping`` of LSQ, section 2.2.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, scale: Tensor, zero_point: int, high: int, damping: float) -> Tensor:
        v = x / scale
        y = torch.round(v).clamp_(-zero_point, high - zero_point).mul_(scale)
        ctx.save_for_backward(v, y, scale)
        ctx.constants = zero_point, high, damping
        return y

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor, None, None, None]:
        v, y, scale = ctx.saved_tensors
        zero_point, high, damping = ctx.constants
        # One fused pass: grad where n < v < p, else 0.
        grad_x = torch.ops.aten.hardtanh_backward(grad, v, -zero_point, high - zero_point)
        # sum(grad * d y / d s): y / s is rint(v) inside and n or p outside, where no v is subtracted.
        slope = dot(grad, y) / scale - dot(grad_x, v)
        return grad_x, slope * damping, None, None, None
