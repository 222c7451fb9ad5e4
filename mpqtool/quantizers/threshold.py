"""Quantizers that learn nothing but how wide their range is, and where it begins: FAT.

Source: A. Goncharenko et al., Fast adjustable threshold for uniform neural network quantization, 2019; the
limits are those of the authors' code.
"""

from __future__ import annotations

__all__ = [
    "SHIFT",
    "WIDTH",
    "ThresholdActivationQuantizer",
    "ThresholdWeightQuantizer",
    "attach_thresholds",
    "read_thresholds",
    "threshold_quantizers",
]

from typing import Any

import torch
from torch import Tensor, fx, nn

from mpqtool.passes.arithmetic import code_range
from mpqtool.passes.functions import hard_swish_reach
from mpqtool.passes.plan import ActivationQuant, Plan, WeightQuant

from .activation import on_three
from .attach import attach
from .rounding import round_ste
from .scales import dot

WIDTH = (0.5, 1.3)
"""Limits of a width, in units of the one at the start."""
SHIFT = (-0.2, 0.4)
"""Limits of how far the low end of a signed range moves, in the same units."""


class ThresholdWeightQuantizer(nn.Module):
    """Fake-quantize a weight, with one threshold for each kernel.

    ``w_hat[o] = scale[o] * rint(clamp(w[o] / scale[o], n, p))`` with ``scale[o] = start[o] * width[o]``.
    The gradient of ``width`` is that of LSQ: ``code - w / scale`` inside the range, ``n`` or ``p`` outside.

    Args:
        entry: Widths, grid, and the scales at the start.

    Shape:
        Input and output ``(kernels, ...)``, float32. ``width``: ``(kernels,)``.
    """

    start: Tensor
    low: Tensor
    high: Tensor

    def __init__(self, entry: WeightQuant) -> None:
        super().__init__()
        self.entry = entry
        ranges = torch.tensor([code_range(bits, entry.grid) for bits in entry.bits], dtype=torch.float32)
        self.register_buffer("low", ranges[:, 0].clone())
        self.register_buffer("high", ranges[:, 1].clone())
        self.register_buffer("start", torch.tensor(entry.scale))
        self.width = nn.Parameter(torch.ones(len(entry.bits)))

    @property
    def scale(self) -> Tensor:
        """Real units per code, ``(kernels,)``."""
        return self.start * self.width

    @torch.no_grad()
    def limit(self) -> None:
        """Take thresholds that a step of the optimizer moved too far back to their limits."""
        self.width.clamp_(*WIDTH)

    def forward(self, weight: Tensor) -> Tensor:
        shape = -1, *[1] * (weight.ndim - 1)
        scale = self.scale.view(shape)
        inside = torch.clamp(weight / scale, self.low.view(shape), self.high.view(shape))
        return round_ste(inside) * scale

    def to_plan(self) -> WeightQuant:
        """The plan entry of the present thresholds."""
        return self.entry.model_copy(update={"scale": tuple(self.scale.detach().double().tolist())})


class ThresholdActivationQuantizer(nn.Module):
    """Fake-quantize an activation between two thresholds.

    Unsigned, with the zero point 0: from 0 to ``width`` times the largest value at the start.
    Signed: the range is ``width`` times as wide as at the start, and its low end moves by ``shift`` times
    the width at the start; then it is rounded to where real 0 is an even code. That code is even for the
    sake of sums, see ``ranges``; the gradient passes as if it were not rounded.

    In front of a HardSwish that is a product of codes, the scale is rounded to keep it one.

    Args:
        entry: Width, and scale and zero point at the start.
        before_hard_swish: Whether a HardSwish uses the value.

    Shape:
        Input and output: any shape ``(batch, ...)``, same for both, float32. ``width`` and ``shift``: ``()``.
    """

    start: Tensor

    def __init__(self, entry: ActivationQuant, *, before_hard_swish: bool = False) -> None:
        super().__init__()
        assert entry.scale is not None  # the plan is complete
        self.entry, self.high, self.first_zero = entry, 2**entry.bits - 1, entry.zero_point or 0
        self.on_three = before_hard_swish and hard_swish_reach(entry.scale, self.first_zero) is not None
        self.register_buffer("start", torch.tensor(entry.scale))
        self.width = nn.Parameter(torch.ones(()))
        self.shift = nn.Parameter(torch.zeros(()), requires_grad=self.first_zero > 0)

    def numbers(self) -> tuple[Tensor, Tensor]:
        """Scale and zero point, ``()`` each."""
        scale = self.start * self.width
        zero = torch.zeros_like(scale)
        if self.first_zero:
            lowest = self.start * (self.high * self.shift - self.first_zero)
            zero = torch.clamp(2 * round_ste(-lowest / (2 * scale)), 0, self.high - 1)
        return (on_three(scale, zero.detach()) if self.on_three else scale), zero

    @torch.no_grad()
    def limit(self) -> None:
        """Take thresholds that a step of the optimizer moved too far back to their limits."""
        self.width.clamp_(*WIDTH)
        self.shift.clamp_(*SHIFT)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = _Quantize.apply(  # type: ignore[no-untyped-call]  # torch's apply has no types
            x, *self.numbers(), self.high
        )
        return y

    def to_plan(self) -> ActivationQuant:
        """The plan entry of the present thresholds."""
        scale, zero = (number.item() for number in self.numbers())
        return self.entry.model_copy(update={"scale": scale, "zero_point": int(zero)})


class _Quantize(torch.autograd.Function):
    """``y = s * clamp(rint(x / s), -z, high - z)``; ``v = x / s``.

    ``d y / d x = 1`` where ``-z < v < high - z``, else 0.
    ``d y / d s = rint(v) - v`` there, and below and above it the code at that end.
    ``d y / d z = 0`` there, and ``-s`` below and above: both ends move.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, scale: Tensor, zero: Tensor, high: int) -> Tensor:
        low, top = -int(zero), high - int(zero)
        v = (x / scale).clamp_(low - 1, top + 1)  # what a mask made infinite, times a gradient of 0, is NaN
        y = torch.round(v).clamp_(low, top).mul_(scale)
        ctx.save_for_backward(v, y, scale)
        ctx.ends = low, top
        return y

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:
        v, y, scale = ctx.saved_tensors
        # One fused pass: grad where -z < v < high - z, else 0.
        grad_x = torch.ops.aten.hardtanh_backward(grad, v, *ctx.ends)
        slope = dot(grad, y) / scale - dot(grad_x, v)
        return grad_x, slope, scale * (grad_x.sum() - grad.sum()), None


def attach_thresholds(graph_module: fx.GraphModule, plan: Plan) -> fx.GraphModule:
    """Insert quantizers with thresholds, in place, as ``attach`` does; nothing else learns any more.

    Args:
        graph_module: An imported graph.
        plan: Where the thresholds start; complete.
    """

    def make_activation(entry: ActivationQuant, source: fx.Node) -> nn.Module:
        operators = {user.meta.get("onnx_op") for user in source.users}
        return ThresholdActivationQuantizer(entry, before_hard_swish="HardSwish" in operators)

    graph_module.requires_grad_(False)
    return attach(
        graph_module,
        plan,
        make_weight=lambda entry, _: ThresholdWeightQuantizer(entry),
        make_activation=make_activation,
    ).eval()


def threshold_quantizers(
    module: nn.Module,
) -> list[ThresholdWeightQuantizer | ThresholdActivationQuantizer]:
    """Every quantizer with thresholds, in plan order."""
    kinds = ThresholdWeightQuantizer | ThresholdActivationQuantizer
    return [m for m in module.modules() if isinstance(m, kinds)]


def read_thresholds(module: nn.Module) -> Plan:
    """The plan as the thresholds stand now."""
    found = threshold_quantizers(module)
    return Plan(
        weights=tuple(q.to_plan() for q in found if isinstance(q, ThresholdWeightQuantizer)),
        activations=tuple(q.to_plan() for q in found if isinstance(q, ThresholdActivationQuantizer)),
    )
