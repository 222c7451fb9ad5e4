from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from mpqtool.passes.arithmetic import fit_weight_scale, quantize_weight
from mpqtool.passes.plan import Grid
from mpqtool.quantizers import WeightQuantizer


def _quantizer(weight: torch.Tensor, bits: tuple[int, ...], grid: Grid) -> WeightQuantizer:
    quantizer = WeightQuantizer("w", bits, grid, elements=weight[0].numel())
    quantizer.fit(weight)
    return quantizer


@given(
    bits=st.lists(st.sampled_from([0, 2, 3, 4, 5, 6, 7, 8]), min_size=1, max_size=6),
    grid=st.sampled_from(list(Grid)),
    seed=st.integers(0, 2**16),
)
def test_codes_are_those_of_the_definition(bits: list[int], grid: Grid, seed: int) -> None:
    weight = torch.randn(len(bits), 3, 5, generator=torch.Generator().manual_seed(seed))
    quantizer = _quantizer(weight, tuple(bits), grid)
    expected_scale = fit_weight_scale(weight.numpy(), bits, grid)
    np.testing.assert_array_equal(quantizer.scale.numpy(), expected_scale)
    np.testing.assert_array_equal(
        quantizer.codes(weight).numpy(), quantize_weight(weight.numpy(), expected_scale, bits, grid)
    )


def test_one_bit_kernels_have_the_closed_form_scale() -> None:
    weight = torch.randn(8, 400, generator=torch.Generator().manual_seed(0))
    quantizer = _quantizer(weight, (1,) * 8, Grid.ODD)
    # Two levels +-s with the least squared error: s = mean|w|; the fit looks at 80 clips, so 1.3 % of max.
    expected = weight.abs().mean(1)
    torch.testing.assert_close(quantizer.scale, expected, rtol=0, atol=float(weight.abs().max()) / 80)


@pytest.mark.parametrize("grid", list(Grid))
def test_gradient_reaches_every_weight_unchanged(grid: Grid) -> None:
    weight = torch.randn(3, 7, generator=torch.Generator().manual_seed(1)).mul(5).requires_grad_()
    quantizer = _quantizer(weight, (2, 3, 8), grid)
    coefficient = torch.randn(3, 7, generator=torch.Generator().manual_seed(2))
    (quantizer(weight) * coefficient).sum().backward()
    # scale * (1 / scale) may be one ulp off 1.
    torch.testing.assert_close(weight.grad, coefficient, rtol=1e-6, atol=0)


@pytest.mark.parametrize("grid", [Grid.ODD, Grid.FULL])
@pytest.mark.parametrize("bits", [2, 8])
def test_a_kernel_of_zeros_has_no_noise(grid: Grid, bits: int) -> None:
    weight = torch.ones(2, 3)
    weight[1] = 0
    quantizer = WeightQuantizer("w", (bits, bits), grid, elements=3)
    for clip in ("mse", "max"):
        quantizer.fit(weight, clip)
        assert (quantizer.step > 0).tolist() == [True, False]
        assert (
            float(quantizer(weight)[1].abs().max()) < 1e-9
        )  # on the odd grid, codes of 1 and next to no scale


def test_step_is_the_distance_of_neighbouring_levels() -> None:
    line = torch.linspace(-1, 1, 4001)
    weight = line.repeat(3, 1)
    for grid in Grid:
        quantizer = _quantizer(weight, (2, 4, 8), grid)
        for kernel in range(3):
            levels = quantizer(weight)[kernel].unique()
            torch.testing.assert_close(
                levels.diff(), quantizer.step[kernel].expand(len(levels) - 1), rtol=1e-4, atol=1e-6
            )


def test_more_bits_never_fit_worse() -> None:
    weight = torch.randn(1, 600, generator=torch.Generator().manual_seed(3))
    errors = [
        float((_quantizer(weight, (bits,), Grid.ODD)(weight) - weight).square().mean()) for bits in range(9)
    ]
    assert errors == sorted(errors, reverse=True)
    # Errors of the best mid-rise quantizer of a Gaussian at 1 to 3 bits (Max, 1960): 0.363, 0.119, 0.037.
    assert errors[1:4] == pytest.approx([0.363, 0.119, 0.0375], rel=0.15)


def test_a_factor_is_a_change_of_units() -> None:
    weight, factor = torch.tensor([[0.3, -0.7], [5.0, 2.0]]), torch.tensor([0.25, 8.0])
    plain, scaled = (WeightQuantizer("w", (3, 4), Grid.ODD, elements=2) for _ in range(2))
    for quantizer in (plain, scaled):
        quantizer.scale.copy_(torch.tensor([0.125, 0.5]))
    scaled.factor.copy_(factor)
    weight.requires_grad_()
    parameter = (weight.detach() / factor.view(-1, 1)).requires_grad_()
    expected, found = plain(weight), scaled(parameter)
    assert torch.equal(found, expected)
    gradient = torch.tensor([[1.0, 2.0], [3.0, 4.0]])
    expected.backward(gradient)
    found.backward(gradient)
    assert weight.grad is not None
    assert parameter.grad is not None
    # As for ``factor * (scaled codes)`` behind a layer, which BatchNormalization was.
    assert torch.equal(parameter.grad, factor.view(-1, 1) * weight.grad)


def test_a_kernel_of_no_bits_is_not_trained() -> None:
    quantizer = WeightQuantizer("w", (3, 0), Grid.ODD, elements=5)
    weight = torch.randn(2, 5, generator=torch.Generator().manual_seed(0)).requires_grad_()
    quantizer.fit(weight)
    y = quantizer(weight)
    (y * 3).sum().backward()
    assert weight.grad is not None
    assert y[1].abs().max() == 0
    assert weight.grad.tolist() == [[3.0] * 5, [0.0] * 5]
