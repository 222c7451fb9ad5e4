from __future__ import annotations

import pytest
import torch

from mpqtool.methods.width_start import SearchSettings, first_width, rate
from mpqtool.methods.width_variables import Variable
from mpqtool.quantizers import PactQuantizer

SETTINGS = SearchSettings(balance=0.15, steps=600)


def _variable(bits: int) -> Variable:
    return Variable("activations", "activations", [PactQuantizer("a", bits)], is_network=True)


@pytest.mark.parametrize(("bits", "fine", "ends"), [(8, False, (2, 8)), (8, True, (6, 8)), (3, True, (2, 5))])
def test_fine_stages_stay_near_what_the_network_had(bits: int, fine: bool, ends: tuple[int, int]) -> None:
    width = first_width(_variable(bits), SETTINGS, step=0, budget=600, fine=fine)
    assert (width.value, width.bits) == (bits, bits)
    assert (width.least, width.most) == ends


def test_where_a_bit_less_costs_nothing_widths_fall_at_one_speed() -> None:
    width = first_width(_variable(8), SETTINGS, step=0, budget=600, fine=False)
    for other in (1, 4, 8):
        price = 0.15 * other
        assert rate(width, price) * price == pytest.approx(width.speed)
    assert width.speed * 600 > 5  # the way from 8 bits to 3 is gone before the stage is over


def test_a_small_lambda_does_not_follow_the_noise() -> None:
    width = first_width(_variable(8), SETTINGS, step=0, budget=600, fine=False)
    assert rate(width, 1e-9) * 0.01 * 8 < 0.05  # of a batch: a hundredth of the loss, in an update of 8 steps
    assert rate(width, 0.0) == rate(width, 1e-9)  # beside a layer of zeros


def test_few_steps_do_not_make_widths_jump() -> None:
    width = first_width(_variable(8), SETTINGS, step=0, budget=1, fine=False)
    assert width.speed * 8 <= 0.5
    assert torch.isfinite(torch.tensor(width.speed))
