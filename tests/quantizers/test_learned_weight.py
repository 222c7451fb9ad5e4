from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from mpqtool.passes.arithmetic import code_range, quantize_weight
from mpqtool.passes.plan import Grid
from mpqtool.quantizers import LsqWeightQuantizer

CASES = [(Grid.FULL, bits) for bits in range(2, 9)] + [(Grid.ODD, bits) for bits in range(1, 9)]
NAMED = [pytest.param(grid, bits, id=f"{grid}-{bits}") for grid, bits in CASES]


def _quantizer(
    weight: Tensor, grid: Grid, bits: int, scale: Tensor | float, **options: bool
) -> LsqWeightQuantizer:
    per_kernel = options.get("per_kernel", True)
    quantizer = LsqWeightQuantizer(
        "w", bits, grid, kernels=len(weight), elements=weight[0].numel(), per_kernel=per_kernel
    )
    quantizer.set_scale(torch.as_tensor(scale).expand(len(weight) if per_kernel else 1))
    return quantizer


def _randn(*shape: int, seed: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def _expected_gradients(
    weight: Tensor, scale: Tensor, grad: Tensor, grid: Grid, bits: int
) -> tuple[Tensor, Tensor]:
    """Equation 3 element by element, in float64: of the weight, and of the scale before it is summed."""
    low, high = code_range(bits, grid)
    v = weight.double() / scale.double().view(-1, *[1] * (weight.ndim - 1))
    odd = grid is Grid.ODD and bits < 8
    nearest = 2 * (v / 2).floor() + 1 if odd else v.round()
    inside = (v > low) & (v < high)
    slope = torch.where(inside, nearest.clamp(low, high) - v, torch.where(v <= low, low, high).double())
    return grad * inside, grad.double() * slope


@pytest.mark.parametrize(("grid", "bits"), NAMED)
@pytest.mark.parametrize("per_kernel", [True, False], ids=["kernel", "layer"])
def test_gradients_match_equation_3(grid: Grid, bits: int, per_kernel: bool) -> None:
    low, high = code_range(bits, grid)
    scale = torch.tensor([0.25, 0.5, 2.0]) if per_kernel else torch.tensor([0.5])
    v = torch.linspace(1.5 * low - 1, 1.5 * high + 1, 58)
    # Powers of two as scales: v comes out as it is put in here, on the ends of the grid and on halves too.
    v = torch.cat([v, torch.tensor([low, low + 0.5, 0.0, high - 0.5, high, high + 0.25])]).view(4, 4, 4)
    weight = (v * scale.view(-1, 1, 1, 1)).expand(3, 4, 4, 4).clone().requires_grad_()
    grad = _randn(3, 4, 4, 4, seed=1)
    quantizer = _quantizer(weight, grid, bits, scale, per_kernel=per_kernel)

    (quantizer(weight) * grad).sum().backward()

    wanted, slopes = _expected_gradients(weight.detach(), scale, grad, grid, bits)
    shared = 64 if per_kernel else 3 * 64
    summed = slopes.flatten(1).sum(1) if per_kernel else slopes.sum().view(1)
    assert torch.equal(weight.grad, wanted)
    assert quantizer.scale.grad is not None
    # On the odd grid p counts codes, of which a step has two, and the scale is half a step.
    codes = 2 if grid is Grid.ODD and bits < 8 else 1
    damping = 1 / math.sqrt(shared * max(high, 1) / codes) / codes**2
    # float32 sums of up to 192 terms of at most ``high``.
    torch.testing.assert_close(quantizer.scale.grad.double() / damping, summed, rtol=1e-5, atol=1e-5 * high)


@pytest.mark.parametrize("end", ["low", "high"])
@pytest.mark.parametrize("grid", [Grid.FULL, Grid.ODD])
def test_an_element_on_the_end_of_the_grid_counts_as_clipped(grid: Grid, end: str) -> None:
    code = dict(zip(("low", "high"), code_range(3, grid), strict=True))[end]
    weight = torch.full((1, 1), 0.5 * code).requires_grad_()
    quantizer = _quantizer(weight, grid, 3, 0.5)

    quantizer(weight).sum().backward()

    assert weight.grad is not None
    assert float(weight.grad) == 0
    assert quantizer.scale.grad is not None
    slope = float(quantizer.scale.grad) / quantizer.damping
    assert slope == pytest.approx(code, rel=1e-6)  # not code - v, which is 0


@pytest.mark.parametrize(("grid", "bits"), NAMED)
def test_scale_gradient_is_a_finite_difference_where_everything_clips(grid: Grid, bits: int) -> None:
    weight = 1000 * _randn(2, 50, seed=2).sign()
    quantizer = _quantizer(weight, grid, bits, 0.5)
    grad = _randn(2, 50, seed=3)
    (quantizer(weight) * grad).sum().backward()
    slopes = quantizer.scale.grad / quantizer.damping
    with torch.no_grad():
        before = (quantizer(weight) * grad).sum(1)
        quantizer.scale += 0.25
        after = (quantizer(weight) * grad).sum(1)
    torch.testing.assert_close(slopes, (after - before) / 0.25, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("grid", [Grid.FULL, Grid.ODD])
def test_scale_gradient_is_that_of_the_values_with_the_rounding_error_held(grid: Grid) -> None:
    """The straight-through estimator, ``rint(v) = v + e`` with a constant e, by central differences."""
    weight, scale, bits = _randn(1, 200, seed=4), 0.3, 3
    quantizer = _quantizer(weight, grid, bits, scale)
    quantizer(weight).sum().backward()
    low, high = code_range(bits, grid)
    v = weight.double() / np.float32(scale)
    codes = quantizer(weight).detach().double() / np.float32(scale)
    held = codes - v.clamp(low, high)

    def surrogate(step: float) -> Tensor:
        return (((weight.double() / step).clamp(low, high) + held) * step).sum()

    found = float(quantizer.scale.grad) / quantizer.damping
    difference = float(surrogate(scale + 1e-6) - surrogate(scale - 1e-6)) / 2e-6
    assert found == pytest.approx(difference, rel=1e-4)


@given(
    case=st.sampled_from(CASES),
    per_kernel=st.booleans(),
    kernels=st.integers(1, 5),
    seed=st.integers(0, 2**16),
)
def test_codes_are_those_of_the_definition(
    case: tuple[Grid, int], per_kernel: bool, kernels: int, seed: int
) -> None:
    grid, bits = case
    rng = np.random.default_rng(seed)
    scale = rng.uniform(0.01, 2, kernels if per_kernel else 1).astype(np.float32)
    halves = rng.integers(-2 * 2**bits, 2 * 2**bits + 1, (kernels, 3, 5)) / 2  # where rounding is decided
    weight = torch.from_numpy((halves * scale.reshape(-1, 1, 1)).astype(np.float32))
    weight[:, 0] += torch.from_numpy(rng.normal(size=(kernels, 5)).astype(np.float32))
    quantizer = _quantizer(weight, grid, bits, torch.from_numpy(scale), per_kernel=per_kernel)

    made = quantizer(weight).detach().numpy()

    entry = quantizer.to_plan()
    codes = quantize_weight(weight.numpy(), entry.scale, entry.bits, grid)
    expected = codes * np.asarray(entry.scale, np.float32).reshape(-1, 1, 1)
    np.testing.assert_array_equal(made, expected)


def test_a_step_moves_each_scale_by_a_twentieth_at_most() -> None:
    quantizer = _quantizer(torch.zeros(3, 2), Grid.FULL, 4, torch.tensor([0.1, 0.2, 0.3]))
    with torch.no_grad():
        quantizer.scale.copy_(torch.tensor([5.0, -1.0, 0.29]))

    quantizer.restrain_scale()

    torch.testing.assert_close(quantizer.scale.detach(), torch.tensor([0.105, 0.19, 0.29]), rtol=1e-6, atol=0)


@pytest.mark.parametrize("grid", [Grid.FULL, Grid.ODD])
def test_a_kernel_of_zeros_stays_finite(grid: Grid) -> None:
    weight = torch.zeros(2, 6).requires_grad_()
    quantizer = _quantizer(weight, grid, 3, 0.5)
    out = quantizer(weight)
    out.sum().backward()
    assert out.detach().unique().tolist() == ([0.5] if grid is Grid.ODD else [0.0])
    assert torch.equal(weight.grad, torch.ones(2, 6))
    assert quantizer.scale.grad.isfinite().all()


def test_the_plan_has_the_scale_of_each_kernel() -> None:
    weight = _randn(3, 4, seed=0)
    each = _quantizer(weight, Grid.FULL, 4, torch.tensor([0.1, 0.2, 0.3])).to_plan()
    shared = _quantizer(weight, Grid.ODD, 1, 0.7, per_kernel=False).to_plan()
    assert each.name == "w"
    assert (each.bits, each.grid) == ((4, 4, 4), Grid.FULL)
    assert each.scale == tuple(float(np.float32(s)) for s in (0.1, 0.2, 0.3))
    assert (shared.bits, shared.grid) == ((1, 1, 1), Grid.ODD)
    assert shared.scale == (float(np.float32(0.7)),) * 3


def test_forgotten_initialization_is_loud() -> None:
    quantizer = LsqWeightQuantizer("w", 4, Grid.FULL, kernels=2, elements=3, per_kernel=True)
    assert quantizer(torch.ones(2, 3)).isnan().all()
