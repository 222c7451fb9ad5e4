from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from mpqtool.importer.interpolation import Rule, cubic_kernel, resample

MODES = ("half_pixel", "half_pixel_symmetric", "pytorch_half_pixel", "align_corners", "asymmetric")


def _row(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


@pytest.mark.parametrize(
    ("mode", "halves", "thirds"),
    [
        ("round_prefer_floor", [0, 0, 1, 1, 2, 2], [0, 0, 1, 1, 1, 2]),
        ("round_prefer_ceil", [0, 1, 1, 2, 2, 3], [0, 0, 1, 1, 1, 2]),
        ("floor", [0, 0, 1, 1, 2, 2], [0, 0, 0, 1, 1, 1]),
        ("ceil", [0, 1, 1, 2, 2, 3], [0, 1, 1, 1, 2, 2]),
        ("simple", [0, 0, 1, 1, 2, 2], [0, 0, 0, 1, 1, 1]),
    ],
)
def test_nearest(mode: str, halves: list[int], thirds: list[int]) -> None:
    rule = Rule("nearest", "asymmetric", mode)
    row = _row(0, 1, 2, 3)
    assert resample(row, 0, 6, 2.0, rule).tolist() == halves  # at 0, 1/2, 1, 3/2, 2, 5/2
    assert resample(row, 0, 6, 3.0, rule).tolist() == thirds  # at 0, 1/3, 2/3, 1, 4/3, 5/3


def test_the_first_rule_rounds_up_where_the_size_shrinks() -> None:
    rule = Rule("nearest", "asymmetric", "simple")
    assert resample(_row(0, 1, 2, 3, 4), 0, 3, 0.6, rule).tolist() == [0, 2, 4]  # at 0, 1.67, 3.33


@pytest.mark.parametrize("mode", ["linear", "cubic"])
@pytest.mark.parametrize("coordinates", MODES)
@pytest.mark.parametrize("antialias", [False, True])
@pytest.mark.parametrize("exclude_outside", [False, True])
def test_weights_of_a_constant_add_up_to_one(
    mode: str, coordinates: str, antialias: bool, exclude_outside: bool
) -> None:
    rule = Rule(mode, coordinates, exclude_outside=exclude_outside, antialias=antialias)
    for size, new in itertools.product((1, 4, 7), (1, 3, 11)):
        y = resample(torch.ones(size, dtype=torch.float64), 0, new, new / size, rule)
        torch.testing.assert_close(y, torch.ones_like(y), rtol=1e-12, atol=0)


def test_a_line_stays_a_line() -> None:
    y = resample(torch.arange(5.0), 0, 9, 9 / 5, Rule("linear", "align_corners"))
    torch.testing.assert_close(y, torch.linspace(0, 4, 9), rtol=1e-6, atol=0)


def test_antialiasing_widens_the_kernel() -> None:
    y = resample(_row(1, 0, 0, 0, 0, 0, 0, 0), 0, 2, 0.25, Rule("linear", antialias=True))
    # The first center is 1.5 and the kernel 4 wide to each side; the end stands for the 3 elements before it.
    weights = [max(1 - abs(at - 1.5) / 4, 0.0) for at in range(-2, 6)]
    torch.testing.assert_close(y[0], _row(sum(weights[:3]) / sum(weights))[0], rtol=1e-12, atol=0)


def test_cubic_kernel_is_torchs() -> None:
    x = torch.eye(8, dtype=torch.float64).view(1, 1, 8, 8)
    expected = F.interpolate(x, size=(8, 19), mode="bicubic")[0, 0]
    torch.testing.assert_close(resample(x[0, 0], 1, 19, 19 / 8, Rule("cubic")), expected, rtol=0, atol=1e-12)
    assert cubic_kernel(_row(0, 1, 2, 3), -0.5).tolist() == [1, 0, 0, 0]


def test_outside_of_the_crop_is_the_extrapolation_value() -> None:
    rule = Rule("linear", "tf_crop_and_resize", extrapolation_value=9.0)
    y = resample(_row(0, 1, 2), 0, 5, 1.0, rule, (-0.5, 1.5))  # at -1, 0, 1, 2, 3
    assert y.tolist() == [9, 0, 1, 2, 9]
    assert resample(_row(0, 1, 2), 0, 1, 1.0, rule, (0.25, 0.75)).tolist() == [1]


@pytest.mark.parametrize("mode", ["nearest", "linear", "cubic"])
@pytest.mark.parametrize("coordinates", [*MODES, "tf_crop_and_resize", "tf_half_pixel_for_nn"])
@pytest.mark.parametrize("antialias", [False, True])
def test_gradients(mode: str, coordinates: str, antialias: bool, rng: np.random.Generator) -> None:
    x = torch.from_numpy(rng.normal(size=(2, 5, 3))).requires_grad_()
    rule = Rule(mode, coordinates, antialias=antialias)
    for new in (3, 8):
        assert torch.autograd.gradcheck(lambda x, n=new: resample(x, 1, n, n / 5, rule, (-0.1, 0.9)), x)
