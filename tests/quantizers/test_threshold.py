from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from mpqtool.passes.arithmetic import code_range
from mpqtool.passes.functions import hard_swish_reach
from mpqtool.passes.plan import ActivationQuant, Grid, WeightQuant
from mpqtool.quantizers import ActivationQuantizer, WeightQuantizer
from mpqtool.quantizers.threshold import (
    SHIFT,
    WIDTH,
    ThresholdActivationQuantizer,
    ThresholdWeightQuantizer,
)

WIDTHS, SHIFTS = st.floats(*WIDTH), st.floats(*SHIFT)


def _randn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def _weight(bits: int, scale: tuple[float, ...] = (0.25, 0.5, 2.0)) -> ThresholdWeightQuantizer:
    return ThresholdWeightQuantizer(
        WeightQuant(name="w", bits=(bits,) * len(scale), grid=Grid.FULL, scale=scale)
    )


def _activation(bits: int, scale: float, zero: int, **options: bool) -> ThresholdActivationQuantizer:
    entry = ActivationQuant(name="x", bits=bits, scale=scale, zero_point=zero)
    return ThresholdActivationQuantizer(entry, **options)


def _shipped(quantizer: ThresholdActivationQuantizer) -> ActivationQuantizer:
    """What the plan of the quantizer is made into."""
    entry = quantizer.to_plan()
    assert entry.scale is not None
    assert entry.zero_point is not None
    made = ActivationQuantizer("x", entry.bits, zero_point=None, nonnegative=False)
    made.set_numbers(scale=entry.scale, zero_point=entry.zero_point)
    return made


@pytest.mark.parametrize("bits", [2, 4, 8])
def test_gradient_of_a_weight_is_that_of_lsq_times_the_start(bits: int) -> None:
    low, high = code_range(bits, Grid.FULL)
    quantizer = _weight(bits)
    start = quantizer.start.view(3, 1)
    # Powers of two: v comes out as it is put in; beyond the ends, and on halves.
    v = torch.cat([torch.linspace(1.5 * low - 1, 1.5 * high + 1, 22), torch.tensor([low - 0.5, 0.5])])
    grad = _randn(3, 24)

    (quantizer(v * start) * grad).sum().backward()

    slope = torch.where((v >= low) & (v <= high), v.round() - v, v.clamp(low, high))
    wanted = (grad.double() * slope * start).sum(1)
    assert quantizer.width.grad is not None
    # float32 sums of 24 terms of at most ``high`` times 2.
    torch.testing.assert_close(quantizer.width.grad.double(), wanted, rtol=0, atol=24 * high * 2 * 1e-6)


@given(st.lists(WIDTHS, min_size=3, max_size=3))
def test_weight_is_what_its_plan_ships(widths: list[float]) -> None:
    quantizer, weight = _weight(4), _randn(3, 40)
    quantizer.width.data.copy_(torch.tensor(widths))
    entry = quantizer.to_plan()
    shipped = WeightQuantizer("w", entry.bits, entry.grid, elements=40)
    shipped.scale.copy_(torch.tensor(entry.scale))

    assert torch.equal(quantizer(weight), shipped(weight))


def test_kernels_without_bits_are_zero() -> None:
    entry = WeightQuant(name="w", bits=(0, 4), grid=Grid.FULL, scale=(1.0, 0.5))
    y = ThresholdWeightQuantizer(entry)(torch.ones(2, 3))
    assert y.tolist() == [[0, 0, 0], [1, 1, 1]]


@given(st.sampled_from([2, 4, 8]), st.floats(0, 1), WIDTHS, SHIFTS)
def test_activation_is_what_its_plan_ships(bits: int, share: float, width: float, shift: float) -> None:
    zero = 2 * round(share * (2**bits - 2) / 2)
    quantizer, x = _activation(bits, 0.1, zero), 10 * _randn(200)
    quantizer.width.data.fill_(width)
    quantizer.shift.data.fill_(shift)
    entry = quantizer.to_plan()

    assert entry.zero_point is not None
    assert entry.zero_point % 2 == 0
    assert (entry.zero_point == 0) >= (zero == 0)  # what has no negative codes gets none
    assert torch.equal(quantizer(x), _shipped(quantizer)(x))


@pytest.mark.parametrize("zero", [0, 4, 14])
def test_thresholds_start_where_the_plan_has_them(zero: int) -> None:
    quantizer = _activation(4, 0.3, zero)
    assert quantizer.to_plan() == quantizer.entry.model_copy(update={"scale": float(quantizer.start)})
    assert quantizer.shift.requires_grad is (zero > 0)


def test_thresholds_move_as_in_the_paper() -> None:
    quantizer = _activation(8, 1.0, 100)  # -100 ... 155, 255 wide
    quantizer.width.data.fill_(1.2)
    quantizer.shift.data.fill_(-0.1)
    scale, zero = (number.item() for number in quantizer.numbers())
    assert scale == pytest.approx(1.2)
    assert zero == 2 * round((100 + 25.5) / 1.2 / 2)


@pytest.mark.parametrize("zero", [0, 6])
def test_gradient_of_an_activation(zero: int) -> None:
    """Of the ends too: the slope of ``y`` over each number, with rounding taken for the identity."""
    quantizer, high = _activation(4, 0.5, zero), 15
    v = torch.cat([torch.linspace(-20.3, 20.4, 50), torch.tensor([0.5, 1.5, -2.5])])
    x, grad = (v * 0.5).requires_grad_(), _randn(53)

    (quantizer(x) * grad).sum().backward()

    inside = (v > -zero) & (v < high - zero)
    of_scale = torch.where(inside, v.round() - v, v.clamp(-zero, high - zero)).double()
    of_zero = torch.where(inside, 0.0, -0.5).double()
    # scale = 0.5 * width and zero = zero - 15 * shift, over width: d zero / d width = -zero.
    width = (grad * (of_scale * 0.5 - of_zero * zero)).sum()
    assert x.grad is not None
    assert quantizer.width.grad is not None
    assert torch.equal(x.grad, grad * inside)
    torch.testing.assert_close(quantizer.width.grad.double(), width, rtol=0, atol=1e-4)  # float32 sums
    if zero:
        assert quantizer.shift.grad is not None
        shift = (grad * of_zero * -15).sum()
        torch.testing.assert_close(quantizer.shift.grad.double(), shift, rtol=0, atol=1e-4)


def test_infinite_values_leave_gradients_finite() -> None:
    quantizer, x = _activation(8, 0.1, 128), torch.tensor([-math.inf, 1.0, math.inf], requires_grad=True)
    quantizer(x).sum().backward()
    assert x.grad is not None
    assert x.grad.tolist() == [0, 1, 0]
    assert quantizer.width.grad is not None
    assert quantizer.width.grad.isfinite()


def test_limits() -> None:
    weight, activation = _weight(4), _activation(4, 1.0, 8)
    weight.width.data.copy_(torch.tensor([0.2, 1.0, 2.0]))
    activation.width.data.fill_(2.0)
    activation.shift.data.fill_(-1.0)
    weight.limit()
    activation.limit()
    torch.testing.assert_close(weight.width.data, torch.tensor([WIDTH[0], 1.0, WIDTH[1]]))
    assert (activation.width.item(), activation.shift.item()) == pytest.approx((WIDTH[1], SHIFT[0]))


@pytest.mark.parametrize("asked", [True, False])
def test_in_front_of_hard_swish_real_3_stays_a_whole_code(asked: bool) -> None:
    start = float(torch.tensor(3.0) / 40)
    quantizer = _activation(8, start, 100, before_hard_swish=asked)
    quantizer.width.data.fill_(0.914)
    scale, zero = (number.item() for number in quantizer.numbers())
    assert (hard_swish_reach(scale, int(zero)) is not None) is asked
