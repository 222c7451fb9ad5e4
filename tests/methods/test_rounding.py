"""Rounding for the outputs of a layer, held against all choices of small problems."""

from __future__ import annotations

import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from mpqtool.methods.rounding import Moments, round_for_outputs

LOW, HIGH = -4, 3
DAMPING = 0.01  # that of the solver
NOISE = 1e-4  # of float32 sums in the solver, as a part of an error


class _Layer:
    """A layer of three kernels, its inputs, and what quantized layers before it make of these.

    ``x`` and ``given`` are ``(inputs, positions)``; inputs are the more correlated the more they are mixed.
    """

    def __init__(self, seed: int, *, inputs: int, mixed: float = 0.5) -> None:
        self.generator = torch.Generator().manual_seed(seed)
        mixing = (1 - mixed) * torch.eye(inputs) + mixed * self.normal(inputs, inputs)
        self.x = mixing @ self.normal(inputs, 60) + 2 * self.normal(inputs, 1)
        self.given = self.x + 0.1 * self.normal(inputs, 60)
        self.weight = self.normal(3, inputs)
        self.scale = self.weight.abs().amax(1) / 3.7  # the largest weights may be clipped

    def normal(self, *shape: int) -> Tensor:
        return torch.randn(*shape, generator=self.generator)

    @property
    def moments(self) -> Moments:
        return Moments.of(self.given[None], (self.weight @ self.x)[None])

    @property
    def below(self) -> Tensor:
        return (self.weight / self.scale[:, None]).floor()

    @property
    def nearest(self) -> Tensor:
        return (self.weight / self.scale[:, None]).round().clamp(LOW, HIGH)

    def solved(self, moments: Moments | None = None) -> Tensor:
        bounds = (torch.full((3,), bound) for bound in (LOW, HIGH))
        return round_for_outputs(self.weight, self.scale, *bounds, moments or self.moments)

    def error(self, codes: Tensor) -> Tensor:
        """What is to become least, by its definition, in float64: ``(..., kernels, inputs)`` to kernels."""
        w, x, given = self.weight.double(), self.x.double(), self.given.double()
        v = codes.double() * self.scale.double()[:, None]
        power = given.var(1, correction=0).mean()
        return (w @ x - v @ given).var(-1, correction=0) + DAMPING * power * (w - v).square().sum(-1)

    def choices(self) -> Tensor:
        """All choices of codes below and above, ``(choices, kernels, inputs)``."""
        ups = itertools.product((0, 1), repeat=self.weight.shape[1])
        return (self.below + torch.tensor(list(ups))[:, None]).clamp(LOW, HIGH)


@settings(max_examples=20)
@given(st.integers(0, 2**31), st.integers(1, 70), st.floats(0, 1))
def test_no_other_code_of_one_weight_is_better(seed: int, inputs: int, mixed: float) -> None:
    """Of a block of weights, and of more than one; nor is rounding to nearest."""
    layer = _Layer(seed, inputs=inputs, mixed=mixed)
    codes = layer.solved()
    below, above = (layer.below + up for up in (0, 1))
    assert bool(((codes == below.clamp(LOW, HIGH)) | (codes == above.clamp(LOW, HIGH))).all())
    here = torch.eye(inputs, dtype=torch.bool)[:, None]
    others = torch.cat([torch.where(here, way.clamp(LOW, HIGH), codes) for way in (below, above)])
    assert bool((layer.error(others) >= layer.error(codes) * (1 - NOISE)).all())
    assert bool((layer.error(codes) <= layer.error(layer.nearest) * (1 + NOISE)).all())


def test_errors_come_near_the_least_of_all_choices() -> None:
    layers = [_Layer(seed, inputs=8, mixed=0.3) for seed in range(40)]
    least = torch.cat([layer.error(layer.choices()).amin(0) for layer in layers])
    found = torch.cat([layer.error(layer.solved()) for layer in layers]) / least
    nearest = torch.cat([layer.error(layer.nearest) for layer in layers]) / least
    assert bool((found > 1 - NOISE).all())
    assert found.median() < 1 + NOISE  # most are the best there is
    assert found.mean() - 1 < (nearest.mean() - 1) / 3


@pytest.mark.parametrize("gain", [0.1, 0.8, 1.0, 1.3])
def test_inputs_without_correlation_are_decided_one_by_one(gain: float) -> None:
    """Input ``k`` is a column of a Hadamard matrix; quantized layers make it ``gain`` times as large."""
    signs = torch.tensor([[1.0]])
    for _ in range(4):
        signs = torch.cat([torch.cat([signs, signs], 1), torch.cat([signs, -signs], 1)])
    layer = _Layer(0, inputs=15)
    layer.x = signs[1:] + 5  # a mean, which a bias takes; the row left out is constant
    layer.given = gain * signs[1:]
    w = layer.weight / layer.scale[:, None]
    best = (gain + DAMPING * gain**2) / (gain**2 + DAMPING * gain**2) * w
    expected = best.round().clamp(w.floor(), w.floor() + 1).clamp(LOW, HIGH)

    assert torch.equal(layer.solved(), expected)
    assert torch.equal(expected, layer.nearest) is (gain == 1)


def test_groups_are_as_each_alone() -> None:
    """Two kernels each for three groups of inputs, as a convolution with groups has them."""
    generator = torch.Generator().manual_seed(3)
    x, y = (torch.randn(3, rows, 200, generator=generator) for rows in (9, 2))
    x = torch.randn(9, 9, generator=generator) @ x
    weight = torch.randn(6, 1, 3, 3, generator=generator)
    scale = weight.flatten(1).abs().amax(1) / 3
    low, high = torch.tensor([-4, -2, -8, -4, 0, -1]), torch.tensor([3, 1, 7, 3, 0, 1])  # widths differ

    codes = round_for_outputs(weight, scale, low, high, Moments.of(x, y))

    assert codes.shape == weight.shape
    for group in range(3):
        own, kernels = slice(group, group + 1), slice(2 * group, 2 * group + 2)
        alone = round_for_outputs(
            weight[kernels], scale[kernels], low[kernels], high[kernels], Moments.of(x[own], y[own])
        )
        assert torch.equal(codes[kernels], alone)
    assert bool((codes.flatten(1) >= low[:, None]).all())
    assert bool((codes.flatten(1) <= high[:, None]).all())


def test_codes_stay_in_the_range() -> None:
    layer = _Layer(5, inputs=6)
    layer.scale = layer.scale / 4  # most weights are outside of it
    codes = layer.solved()
    assert (int(codes.min()), int(codes.max())) == (LOW, HIGH)


@settings(max_examples=10)
@given(st.lists(st.integers(1, 20), min_size=1, max_size=5), st.sampled_from([0.0, 1.0, 1e3, 1e5]))
def test_moments_of_parts_add_up_to_those_of_all(parts: list[int], mean: float) -> None:
    """Also far from 0, where float32 products of the values themselves would lose the variance."""
    generator = torch.Generator().manual_seed(sum(parts))
    x, y = (torch.randn(2, rows, sum(parts), generator=generator) + mean for rows in (5, 3))
    total, *others = (Moments.of(a, b) for a, b in zip(x.split(parts, 2), y.split(parts, 2), strict=True))
    for other in others:
        total.add(other)

    assert total.count == sum(parts)
    both = torch.cat([x, y], 1).double()
    expected = both @ both.mT / total.count - both.mean(2)[:, :, None] * both.mean(2)[:, None]
    # Means of some dozen float32, and the products of what their errors make of deviations of about 1.
    close = {"rtol": 1e-5, "atol": 1e-5 + 1e-6 * mean}
    torch.testing.assert_close(total.centered[0].double(), expected[:, :5, :5], **close)
    torch.testing.assert_close(total.centered[1].double(), expected[:, 5:, :5], **close)
    torch.testing.assert_close(total.x.double(), both[:, :5].mean(2), rtol=1e-6, atol=1e-6)


def test_parts_do_not_change_the_codes() -> None:
    layer = _Layer(11, inputs=20)
    y = layer.weight @ layer.x
    pieces = zip(layer.given.split([7, 33, 20], 1), y.split([7, 33, 20], 1), strict=True)
    total, *others = (Moments.of(a[None], b[None]) for a, b in pieces)
    for other in others:
        total.add(other)
    assert torch.equal(layer.solved(total), layer.solved())


def test_a_large_mean_does_not_matter() -> None:
    layer = _Layer(1, inputs=10)
    codes = layer.solved()
    layer.x, layer.given = layer.x + 4096, layer.given + 4096  # float32 keeps 2**-12 of deviations
    assert torch.equal(layer.solved(), codes)
    assert not torch.equal(codes, layer.nearest)


@pytest.mark.parametrize("constant", [0.0, 0.1, -1000.0])
def test_of_constant_inputs_weights_are_rounded_to_nearest(constant: float) -> None:
    """No rounding changes anything but the mean, which is for the bias."""
    layer = _Layer(2, inputs=9)
    layer.given = torch.full_like(layer.given, constant)
    assert torch.equal(layer.solved(), layer.nearest)


def test_an_input_that_is_zero_does_no_harm() -> None:
    layer = _Layer(4, inputs=12)
    alone = layer.solved()
    layer.x[3] = layer.given[3] = 0
    codes = layer.solved()
    assert torch.equal(codes[:, 3], layer.nearest[:, 3])
    assert not torch.equal(codes, alone)


def test_kernels_of_zeros_and_of_no_bits_have_codes_0() -> None:
    layer = _Layer(6, inputs=7)
    layer.weight[0] = 0
    layer.scale[0] = 1e-30  # as kernels of zeros have
    low, high = torch.tensor([LOW, 0, LOW]), torch.tensor([HIGH, 0, HIGH])
    codes = round_for_outputs(layer.weight, layer.scale, low, high, layer.moments)
    assert not codes[:2].any()
    assert torch.equal(codes[2], layer.solved()[2])
