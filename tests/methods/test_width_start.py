from __future__ import annotations

import dataclasses

import pytest

from mpqtool.methods.width_start import SearchSettings, first_width, rate
from mpqtool.methods.width_variables import Variable
from mpqtool.quantizers import DorefaWeightQuantizer, Gain, PactQuantizer

SETTINGS = SearchSettings(balance=0.15, steps=600)


def _weights(bits: int) -> Variable:
    quantizer = DorefaWeightQuantizer("w", (bits,), elements=1, gain=Gain.ONE)
    return Variable("weights", "weights", [quantizer], "network")


def _activations(bits: int) -> Variable:
    return Variable("activations", "activations", [PactQuantizer("a", bits)], "network")


@pytest.mark.parametrize(
    ("variable", "least"), [(_weights(8), 1), (_activations(8), 2), (_activations(3), 2)]
)
def test_a_width_begins_at_the_bits_that_are_used(variable: Variable, least: int) -> None:
    width = first_width(variable, SETTINGS)
    assert width.value == width.bits == variable.bits
    assert (width.least, width.most) == (least, 8)


def test_where_a_bit_less_costs_nothing_widths_fall_at_one_speed() -> None:
    width = first_width(_activations(8), SETTINGS)
    for other in (1, 4, 8):
        price = 0.15 * other
        assert rate(width, price) * price == pytest.approx(width.speed)
    assert width.speed * 600 > 5  # the way from 8 bits to 3 is gone before the search is over


def test_activations_fall_at_half_the_speed_of_weights() -> None:
    assert first_width(_activations(8), SETTINGS).speed == 0.5 * first_width(_weights(8), SETTINGS).speed


def test_a_small_lambda_does_not_follow_the_noise() -> None:
    width = first_width(_activations(8), SETTINGS)
    assert rate(width, 1e-9) * 0.01 * 8 < 0.05  # of a batch: a hundredth of the loss, in an update of 8 steps
    assert rate(width, 0.0) == rate(width, 1e-9)  # beside a layer of zeros


def test_few_steps_do_not_make_widths_jump() -> None:
    width = first_width(_weights(8), dataclasses.replace(SETTINGS, steps=1))
    assert 0 < width.speed * 8 <= 0.5
