from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from mpqtool.passes.arithmetic import code_range, quantize_weight
from mpqtool.passes.plan import Grid
from mpqtool.quantizers.initialize import INITS, initial_activation, initial_weight_scale


def _weight(*shape: int, mean: float = 0.0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(0)) + mean


def _weight_error(weight: Tensor, scale: Tensor, bits: int, grid: Grid) -> float:
    scales = scale.expand(len(weight)).numpy()
    codes = quantize_weight(weight.numpy(), scales, [bits] * len(weight), grid)
    return float(np.square(codes * scales[:, None] - weight.numpy()).mean())


def _expected_step(rows: Tensor, bits: int, init: str, low: float, largest: float) -> Tensor:
    """The formulas as they are printed, for the distance of two levels."""
    w = rows.double()
    mean, spread = w.mean(1), (w - w.mean(1, keepdim=True)).square().mean(1).sqrt()
    return {
        "lsq+": torch.stack([(mean - 3 * spread).abs(), (mean + 3 * spread).abs()]).amax(0) / 2 ** (bits - 1),
        "lsq": 2 * w.abs().mean(1) / math.sqrt(largest),
        "minmax": torch.stack([w.amax(1) / largest, w.amin(1) / low]).amax(0),
    }[init]


@pytest.mark.parametrize("init", ["lsq+", "lsq", "minmax"])
@pytest.mark.parametrize("bits", [2, 3, 4, 8])
@pytest.mark.parametrize("per_kernel", [True, False], ids=["kernel", "layer"])
def test_weight_scales_are_those_of_the_formulas(init: str, bits: int, per_kernel: bool) -> None:
    weight = torch.stack([_weight(30, 2), 0.2 * _weight(30, 2, mean=-0.7)])  # the mean has a sign
    rows = weight.flatten(1) if per_kernel else weight.reshape(1, -1)
    for grid in (Grid.FULL, Grid.ODD):
        odd = grid is Grid.ODD and bits < 8
        low, largest = ((1 - 2**bits) / 2, (2**bits - 1) / 2) if odd else code_range(bits, grid)

        scale = initial_weight_scale(weight, bits, grid, init, per_kernel=per_kernel)

        expected = _expected_step(rows, bits, init, low, largest) / (2 if odd else 1)
        assert scale.shape == (2 if per_kernel else 1,)
        torch.testing.assert_close(scale.double(), expected, rtol=1e-5, atol=0)  # float32 sums


@pytest.mark.parametrize(
    ("bits", "lsq_plus", "lsq", "best"),
    [(2, 0.200, 0.221, 0.150), (3, 0.0495, 0.071, 0.041), (4, 0.0127, 0.030, 0.0119)],
)
def test_errors_on_a_gaussian(bits: int, lsq_plus: float, lsq: float, best: float) -> None:
    """By numerical integration over a unit Gaussian; 3 % for 40,000 samples of one."""
    weight = _weight(1, 40_000)
    found = {
        init: _weight_error(
            weight, initial_weight_scale(weight, bits, Grid.FULL, init, per_kernel=True), bits, Grid.FULL
        )
        for init in INITS
    }
    assert found["lsq+"] == pytest.approx(lsq_plus, rel=0.03)
    assert found["lsq"] == pytest.approx(lsq, rel=0.03)
    assert found["mse"] == pytest.approx(best, rel=0.03)


@pytest.mark.parametrize("grid", [Grid.FULL, Grid.ODD])
@pytest.mark.parametrize("bits", [1, 2, 3, 4, 6, 8])
@pytest.mark.parametrize("mean", [0.0, 0.5])
def test_mse_is_never_worse(grid: Grid, bits: int, mean: float) -> None:
    if bits == 1 and grid is Grid.FULL:
        pytest.skip("the full grid has no 1-bit codes")
    weight = _weight(2, 500, mean=mean)
    for per_kernel in (True, False):
        errors = {
            init: _weight_error(
                weight, initial_weight_scale(weight, bits, grid, init, per_kernel=per_kernel), bits, grid
            )
            for init in INITS
        }
        # Scales 1/80 of the largest apart: at 8 bits, they miss the best by a few percent.
        assert errors["mse"] <= 1.05 * min(errors.values())


@pytest.mark.parametrize("init", INITS)
@pytest.mark.parametrize("grid", [Grid.FULL, Grid.ODD])
@pytest.mark.parametrize("elements", [1, 9])
def test_kernels_without_spread_or_center_are_kept(init: str, grid: Grid, elements: int) -> None:
    weight = torch.tensor([0.0, 0.4, -0.4, 0.01, 3.0])[:, None].expand(-1, elements)
    # A step beyond the largest code with lsq+, half a step of 1.2 or 1.1 times the weight with lsq.
    allowed = {"mse": 1e-6, "minmax": 1e-6, "lsq+": 0.26, "lsq": 0.54}[init]

    scale = initial_weight_scale(weight, 3, grid, init, per_kernel=True)

    codes = quantize_weight(weight.numpy(), scale.numpy(), [3] * 5, grid)
    back = torch.from_numpy(codes * scale.numpy()[:, None])
    assert back[0].abs().max() < 1e-11  # on the odd grid, whose codes are never 0, too
    assert ((back - weight).abs() <= allowed * weight.abs() + 1e-11).all()


@pytest.mark.parametrize("grid", [Grid.FULL, Grid.ODD])
@pytest.mark.parametrize("sign", [1, -1])
def test_minmax_clips_no_kernel_far_from_0(grid: Grid, sign: int) -> None:
    weight = sign * torch.linspace(0.9, 1, 30)[None]

    scale = initial_weight_scale(weight, 4, grid, "minmax", per_kernel=True)

    assert _weight_error(weight, scale, 4, grid) < (1 / 14) ** 2  # half a step of 1/7 at most


def test_the_weight_is_not_changed_and_gets_no_graph() -> None:
    weight = _weight(2, 9).requires_grad_()
    for init in INITS:
        assert not initial_weight_scale(weight, 3, Grid.FULL, init, per_kernel=True).requires_grad
    assert torch.equal(weight.detach(), _weight(2, 9))


@pytest.mark.parametrize("init", INITS)
def test_without_a_value_on_the_side_of_the_codes_the_scale_is_of_the_size_of_the_values(init: str) -> None:
    x = np.linspace(-3, 0, 50, dtype=np.float32)
    scale, beta = initial_activation(x, init, low=0, high=15, offset=False)
    assert beta == 0
    assert 0.1 < scale < 1.5


def test_channels_that_alternate_are_all_seen() -> None:
    x = np.stack([np.full(2**12, 0.05), *np.linspace(0, [3, 4, 5], 2**12).T], 1).astype(np.float32).ravel()
    ends = _ends(4, signed=False)
    error = _error(x, initial_activation(x, "lsq+", **ends, offset=False), **ends)
    assert error < 1.1 * (5 / 15) ** 2 / 12  # of values spread evenly over the whole range


SWISH = torch.nn.functional.silu(2 * torch.randn(4000, generator=torch.Generator().manual_seed(1))).numpy()


def _ends(bits: int, *, signed: bool) -> dict[str, int]:
    low = -(2 ** (bits - 1)) if signed else 0
    return {"low": low, "high": low + 2**bits - 1}


def _error(x: NDArray[np.float32], numbers: tuple[float, float], low: int, high: int) -> float:
    scale, beta = numbers
    back = scale * np.clip(np.rint((x.astype(np.float64) - beta) / scale), low, high) + beta
    return float(np.square(back - x).mean())


@pytest.mark.parametrize("bits", [1, 2, 4, 8])
@pytest.mark.parametrize("signed", [False, True], ids=["unsigned", "signed"])
def test_activation_formulas(bits: int, signed: bool) -> None:
    ends = _ends(bits, signed=signed)
    low, high = ends.values()
    smallest, largest = float(SWISH.min()), float(SWISH.max())

    scale, beta = initial_activation(SWISH, "minmax", **ends, offset=True)
    assert scale == pytest.approx((largest - smallest) / (high - low))
    assert beta == pytest.approx(smallest - low * scale)

    scale, beta = initial_activation(SWISH, "minmax", **ends, offset=False)
    reach = [end / code for end, code in ((smallest, low), (largest, high)) if code]
    assert (scale, beta) == (pytest.approx(max(reach)), 0)

    for offset in (True, False):
        scale, beta = initial_activation(SWISH, "lsq", **ends, offset=offset)
        assert (scale, beta) == (pytest.approx(2 * np.abs(SWISH).mean() / max(high, 1) ** 0.5), 0)


@pytest.mark.parametrize("bits", [2, 3, 4])
@pytest.mark.parametrize("signed", [False, True], ids=["unsigned", "signed"])
def test_least_error_is_less_than_that_of_the_range_on_swish(bits: int, signed: bool) -> None:
    ends = _ends(bits, signed=signed)
    errors = {
        (init, offset): _error(SWISH, initial_activation(SWISH, init, **ends, offset=offset), **ends)
        for init in INITS
        for offset in (True, False)
    }
    for offset in (True, False):
        others = [errors[init, offset] for init in ("lsq", "minmax")]
        assert errors["lsq+", offset] < min(others)
        assert errors["mse", offset] == errors["lsq+", offset]
    assert errors["lsq+", True] < errors["lsq+", False]  # what the offset is for


@pytest.mark.parametrize("bits", [2, 4])
def test_least_error_is_near_that_of_a_fine_search(bits: int) -> None:
    ends = _ends(bits, signed=False)
    few = SWISH[:1000]
    width = few.max() / (2**bits - 1)
    best = min(
        _error(few, (float(scale), float(beta)), **ends)
        for scale in np.linspace(0.2, 1, 60) * width
        for beta in np.linspace(-0.3, 0.1, 30)
    )
    assert _error(few, initial_activation(few, "lsq+", **ends, offset=True), **ends) <= 1.02 * best


@pytest.mark.parametrize("init", INITS)
@pytest.mark.parametrize("offset", [True, False])
@pytest.mark.parametrize("signed", [False, True], ids=["unsigned", "signed"])
@pytest.mark.parametrize("value", [0.0, 3.0, -0.2])
def test_constants(init: str, offset: bool, signed: bool, value: float) -> None:
    ends = _ends(4, signed=signed)
    x = np.full(100, value, np.float32)

    scale, beta = initial_activation(x, init, **ends, offset=offset)

    assert math.isfinite(beta)
    assert scale > 0
    if value == 0:
        assert (scale, beta) == (1, 0)
    elif offset and init != "lsq":
        assert _error(x, (scale, beta), **ends) < 1e-10


@pytest.mark.parametrize("signed", [False, True], ids=["unsigned", "signed"])
@pytest.mark.parametrize(("start", "stop"), [(2.0, 3.0), (-3.0, -2.0)])
def test_a_range_without_0_needs_no_code_for_it(signed: bool, start: float, stop: float) -> None:
    ends = _ends(3, signed=signed)
    x = np.linspace(start, stop, 500, dtype=np.float32)
    for init in ("lsq+", "minmax"):
        scale, beta = initial_activation(x, init, **ends, offset=True)
        assert scale > 0
        # Eight levels over a range of 1, of which seven steps lead to the ends: step**2 / 12.
        assert _error(x, (scale, beta), **ends) <= 1.05 * (1 / 7) ** 2 / 12
