from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from mpqtool.passes.arithmetic import dequantize, quantize
from mpqtool.passes.roles import Role
from mpqtool.quantizers import PactQuantizer
from mpqtool.quantizers.attach import activation_quantizers, restrain_scales
from mpqtool.quantizers.initialize import initial_clip
from mpqtool.quantizers.ranges import fit_codes


def _quantizer(bits: int, alpha: float, share: float = 0.0) -> PactQuantizer:
    quantizer = PactQuantizer("x", bits)
    quantizer.set_numbers(alpha=alpha, share=share)
    return quantizer


@pytest.mark.parametrize("bits", range(1, 9))
def test_values_are_those_of_the_paper(bits: int) -> None:
    alpha = 3.0
    x = torch.linspace(-1, 5, 1000, dtype=torch.float64)
    s = alpha / (2**bits - 1)
    codes = x.clamp(0, alpha) / s
    clear = (codes - codes.floor() - 0.5).abs() > 1e-4  # no tie of float32
    found = _quantizer(bits, alpha)(x.float().view(1, -1))[0]
    torch.testing.assert_close(found[clear].double(), codes.round()[clear] * s, rtol=1e-6, atol=0)
    assert len(found.unique()) == 2**bits


@given(
    bits=st.integers(1, 8), share=st.sampled_from([0.0, 2 / 256, 26 / 256, 70 / 256, 0.5]),
    alpha=st.floats(0.01, 50), seed=st.integers(0, 2**16),
)  # fmt: skip
def test_the_plan_gives_the_same_numbers(bits: int, share: float, alpha: float, seed: int) -> None:
    quantizer = _quantizer(bits, alpha, share)
    x = torch.randn(3, 40, generator=torch.Generator().manual_seed(seed)) * alpha
    plan = quantizer.to_plan()
    assert plan.scale is not None
    assert plan.zero_point is not None
    codes = quantize(x.numpy(), plan.scale, plan.zero_point, 0, 2**bits - 1)
    expected = dequantize(codes, plan.scale, plan.zero_point)
    np.testing.assert_array_equal(quantizer(x).detach().numpy(), expected)
    assert (plan.bits, plan.offset) == (bits, 0)
    assert float(quantizer(torch.zeros(1, 2)).detach().abs().max()) == 0  # what padding adds is a code


@pytest.mark.parametrize("share", [0.0, 26 / 256, 0.5])
def test_one_clip_serves_every_width(share: float) -> None:
    quantizer = _quantizer(8, 2.0, share)
    for bits in range(8, 1, -1):
        quantizer.bits.fill_(bits)
        top = float(quantizer(torch.full((1, 1), 100.0)).detach())
        assert top == pytest.approx(2.0, rel=1e-6)
        steps = 2**bits - 1 - quantizer.zero_point
        assert float(quantizer.scale.detach()) == pytest.approx(2.0 / steps, rel=1e-6)


@pytest.mark.parametrize(
    ("share", "zero_points"),
    [
        (0.0, [0, 0, 0, 0, 0, 0, 0, 0]),
        (0.5, [0, 2, 4, 8, 16, 32, 64, 128]),
        (26 / 256, [0, 0, 1, 2, 3, 6, 13, 26]),  # Swish: as near as codes are to -0.278
        (250 / 256, [0, 2, 6, 14, 30, 62, 125, 250]),  # a code is left above 0
    ],
)
def test_zero_point_is_the_same_share_of_the_codes(share: float, zero_points: list[int]) -> None:
    assert [_quantizer(bits, 1.0, share).zero_point for bits in range(1, 9)] == zero_points


def test_signed_codes_are_symmetric_but_for_one_more_below() -> None:
    x = torch.linspace(-3, 3, 3001).view(1, -1)
    for bits in range(2, 9):
        half = 2 ** (bits - 1)
        quantizer = _quantizer(bits, 1.0, 0.5)
        codes = (quantizer(x) / quantizer.scale).detach().round().unique()
        assert codes.tolist() == list(range(-half, half))
        inside = x[x.abs() <= 1].view(1, -1)
        mirrored = -quantizer(-inside)
        assert torch.equal(quantizer(inside), mirrored)


@pytest.mark.parametrize("bits", [2, 3, 4, 8])
@pytest.mark.parametrize("share", [0.0, 26 / 256, 0.5])
def test_gradients_are_those_of_calibrated_pact(bits: int, share: float) -> None:
    alpha = 1.7
    quantizer = _quantizer(bits, alpha, share)
    generator = torch.Generator().manual_seed(0)
    x = (3 * torch.randn(4, 100, generator=generator)).requires_grad_()
    coefficient = torch.randn(4, 100, generator=generator)
    y = quantizer(x)
    (y * coefficient).sum().backward()

    z, values, found = quantizer.zero_point, x.detach().double(), y.detach().double()
    low = -alpha * z / (2**bits - 1 - z)
    below, above = values <= low, values >= alpha
    # Jin et al., equation 9: 1 above alpha, (y_q - y) / alpha inside; below, the clip is a multiple of alpha.
    slope = torch.where(above, 1.0, torch.where(below, low / alpha, (found - values) / alpha))
    expected = (coefficient * slope).sum()
    # A sum of 400 terms around 1, and a clip, in float32.
    torch.testing.assert_close(quantizer.alpha.grad.double(), expected, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(x.grad, torch.where(below | above, 0.0, coefficient), rtol=0, atol=0)


def test_a_larger_clip_lets_more_through_and_the_gradient_knows() -> None:
    """AdaQAT prints the indicator ``x <= alpha``, where nothing depends on alpha but the rounding."""
    quantizer, x = _quantizer(4, 1.0), torch.tensor([[5.0, 2.0, 0.2, -3.0]])
    quantizer(x)[0, :2].sum().backward()
    found = float(quantizer.alpha.grad)
    with torch.no_grad():
        before = float(quantizer(x)[0, :2].sum())
        quantizer.alpha += 0.01
        after = float(quantizer(x)[0, :2].sum())
    assert found == pytest.approx((after - before) / 0.01, rel=1e-4)
    assert found == pytest.approx(2)  # both are above


def test_half_precision_is_widened_first() -> None:
    quantizer = _quantizer(8, 1.0)
    x = torch.rand(2, 30, generator=torch.Generator().manual_seed(0)).bfloat16()
    found = quantizer(x)
    assert found.dtype == torch.float32
    assert torch.equal(found, quantizer(x.float()))


def test_without_a_clip_it_is_not_set_and_loud() -> None:
    quantizer = PactQuantizer("x", 4)
    assert not quantizer.is_set
    assert quantizer(torch.ones(2, 3)).isnan().all()
    assert quantizer.elements == 3
    x = torch.full((2, 5), -0.7)
    assert quantizer.pass_through(x) is x
    assert quantizer.elements == 5
    quantizer.set_numbers(alpha=1.0, share=0.0)
    assert quantizer.is_set


def test_a_step_moves_the_clip_by_a_twentieth_at_most() -> None:
    quantizer = _quantizer(4, 2.0)
    other = torch.nn.Sequential(copy.deepcopy(quantizer), quantizer)
    with torch.no_grad():
        quantizer.alpha.fill_(-5.0)
    restrain_scales(other)
    assert [float(q.alpha.detach()) for q in activation_quantizers(other)] == pytest.approx([2.0, 1.9])


@pytest.mark.parametrize("bits", [2, 8])
@pytest.mark.parametrize("role", list(Role))
def test_the_first_clip_has_the_least_squared_error(role: Role, bits: int, rng: np.random.Generator) -> None:
    x = rng.normal(size=4000).astype(np.float32) * 3
    if role is Role.NONNEGATIVE:
        x = np.abs(x)
    elif role is Role.SKEWED:
        x = x / (1 + np.exp(-x))
    alpha, share = initial_clip(x, role, bits=bits)
    assert share == (0.5 if role is Role.SIGNED else 0) if role is not Role.SKEWED else 0 <= share < 0.5

    def error(clip: float) -> float:
        found = _quantizer(bits, clip, share)(torch.from_numpy(x).view(1, -1)).detach().numpy()
        return float(np.square(found - x).mean())

    best = min(error(alpha * f) for f in np.linspace(0.5, 2, 61))
    assert error(alpha) <= 1.06 * best  # the fit's steps are 3 % of a scale


def test_skewed_values_keep_codes_below_zero_where_there_are_enough(rng: np.random.Generator) -> None:
    x = rng.normal(size=4000).astype(np.float32) * 2
    x = x / (1 + np.exp(-x))
    alpha, share = initial_clip(x, Role.SKEWED, bits=8)
    _, zero_point = fit_codes(x, 8, nonnegative=False)
    assert share == zero_point / 256
    assert initial_clip(x, Role.SKEWED, bits=2)[1] == share  # it is that of every width
    below = [float(_quantizer(bits, alpha, share)(torch.tensor([[-0.27]])).detach()) for bits in (8, 6, 5)]
    assert below == pytest.approx([-0.27, -0.27, -0.27], abs=alpha / 31 / 2)


@pytest.mark.parametrize("role", list(Role))
def test_a_value_that_is_always_zero_gets_a_clip(role: Role) -> None:
    alpha, share = initial_clip(np.zeros(20, np.float32), role, bits=8)
    assert alpha > 0
    assert not _quantizer(8, alpha, share)(torch.zeros(1, 3)).detach().any()
