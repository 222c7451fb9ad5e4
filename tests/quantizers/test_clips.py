from __future__ import annotations

import math

import pytest
import torch

from mpqtool.passes.plan import Grid
from mpqtool.quantizers import WeightQuantizer
from mpqtool.quantizers.clips import clipped_scale

_WEIGHT = torch.tensor([[3.0, -1.0, 1.0, 1.0], [0.0, 0.0, 0.0, 0.0]])


@pytest.mark.parametrize(("clip", "d"), [("max", 3.0), ("paper4rms", 4 * math.sqrt(3))])
def test_the_range_ends_at_the_clip(clip: str, d: float) -> None:
    for bits in range(1, 8):  # mid-rise: the last level is half a step, one scale, below the clip
        scale = clipped_scale(_WEIGHT, torch.tensor([bits, bits]), Grid.ODD, clip)
        assert float(scale[0]) * (2**bits - 1) + float(scale[0]) == pytest.approx(d)
    for grid in Grid:
        scale = clipped_scale(_WEIGHT, torch.tensor([8, 8]), grid, clip)
        assert float(scale[0]) * 127 == pytest.approx(d)


@pytest.mark.parametrize("clip", ["max", "paper4rms", "mse"])
@pytest.mark.parametrize("grid", list(Grid))
def test_kernels_without_a_number_have_the_scale_that_the_fit_gives_them(clip: str, grid: Grid) -> None:
    fitted, clipped = (WeightQuantizer("w", (3, 3, 0), grid, elements=4) for _ in range(2))
    weight = torch.cat([_WEIGHT, _WEIGHT[:1]])
    fitted.fit(weight)
    clipped.fit(weight, clip)
    torch.testing.assert_close(clipped.scale[1:], fitted.scale[1:], rtol=0, atol=0)
    assert clipped.codes(weight)[2].abs().max() == 0


def test_at_two_bits_four_root_mean_squares_are_too_wide() -> None:
    weight = torch.randn(4, 2000, generator=torch.Generator().manual_seed(0))
    errors = {}
    for clip in ("mse", "paper4rms"):
        quantizer = WeightQuantizer("w", (2,) * 4, Grid.ODD, elements=2000)
        quantizer.fit(weight, clip)
        errors[clip] = float((quantizer(weight) - weight).square().mean())
    # Of a Gaussian, 0.119 and 0.336; 8000 numbers tell it to a few percent.
    assert errors["mse"] == pytest.approx(0.119, rel=0.05)
    assert errors["paper4rms"] == pytest.approx(0.336, rel=0.05)
