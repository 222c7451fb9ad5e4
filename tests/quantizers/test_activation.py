from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from mpqtool.passes.arithmetic import dequantize, quantize
from mpqtool.quantizers import ActivationQuantizer


def _quantizer(bits: int, *, zero_point: int, scale: float) -> ActivationQuantizer:
    quantizer = ActivationQuantizer("x", bits, zero_point=zero_point, nonnegative=zero_point == 0)
    quantizer.set_numbers(scale=scale, zero_point=zero_point)
    return quantizer


@given(bits=st.integers(1, 8), data=st.data(), seed=st.integers(0, 2**16))
def test_values_are_those_of_the_definition(bits: int, data: st.DataObject, seed: int) -> None:
    zero_point = data.draw(st.integers(0, 2**bits - 1))
    quantizer = _quantizer(bits, zero_point=zero_point, scale=0.37)
    x = torch.randn(4, 9, generator=torch.Generator().manual_seed(seed)) * 20
    scale = np.float32(0.37)
    expected = dequantize(quantize(x.numpy(), scale, zero_point, 0, 2**bits - 1), scale, zero_point)
    np.testing.assert_array_equal(quantizer(x).detach().numpy(), expected)


@pytest.mark.parametrize("bits", [1, 2, 4, 8])
@pytest.mark.parametrize("centered", [True, False], ids=["zero-point", "unsigned"])
def test_gradients_match_equations_3_and_4(bits: int, centered: bool) -> None:
    zero_point = 2 ** (bits - 1) if centered else 0
    quantizer = _quantizer(bits, zero_point=zero_point, scale=0.31)
    x = torch.linspace(-5, 5, 402).view(2, 201).requires_grad_()

    quantizer(x).sum().backward()

    low, high = -zero_point, 2**bits - 1 - zero_point
    v = x.detach().double() / 0.31
    inside = (v > low) & (v < high)
    slope = torch.where(inside, v.round() - v, v.round().clamp(low, high))
    damping = 1 / math.sqrt(201 * max(high, 1))
    # float32 sums of 402 terms against float64
    torch.testing.assert_close(
        quantizer.learned_scale.grad.double(), slope.sum() * damping, rtol=1e-4, atol=1e-5
    )
    torch.testing.assert_close(x.grad, inside.float(), rtol=0, atol=0)


def test_scale_gradient_is_a_finite_difference_where_everything_clips() -> None:
    quantizer = _quantizer(3, zero_point=0, scale=0.5)
    x = torch.full((1, 10), 100.0)
    quantizer(x).sum().backward()
    slope = float(quantizer.learned_scale.grad) * math.sqrt(10 * 7)  # without the damping
    with torch.no_grad():
        before = float(quantizer(x).sum())
        quantizer.learned_scale += 0.01
        after = float(quantizer(x).sum())
    assert slope == pytest.approx((after - before) / 0.01, rel=1e-3)


def test_forgotten_calibration_is_loud() -> None:
    quantizer = ActivationQuantizer("x", 4, zero_point=0, nonnegative=True)
    assert quantizer(torch.ones(1, 3)).isnan().all()


@pytest.mark.parametrize(
    ("stepped", "kept"),
    [(-0.1, 0.95), (0.0, 0.95), (0.97, 0.97), (1.02, 1.02), (40.0, 1.05)],
    ids=["negative", "zero", "less", "more", "far-more"],
)
def test_a_step_moves_a_scale_by_a_twentieth_at_most(stepped: float, kept: float) -> None:
    quantizer = _quantizer(4, zero_point=0, scale=0.3)
    for power in (1, 2):  # the second step is measured from where the first one ended
        with torch.no_grad():
            quantizer.learned_scale.fill_(0.3 * kept ** (power - 1) * stepped)

        quantizer.restrain_scale()

        assert float(quantizer.scale.detach()) == pytest.approx(0.3 * kept**power, rel=1e-6)


def test_a_scale_that_is_not_trained_is_left_alone() -> None:
    quantizer = _quantizer(4, zero_point=0, scale=0.3)
    quantizer.learned_scale.requires_grad_(False).fill_(40.0)

    quantizer.restrain_scale()

    assert float(quantizer.scale) == 40.0
