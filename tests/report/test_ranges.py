"""Where the codes of activations are drawn."""

from __future__ import annotations

import numpy as np
import pytest

from mpqtool.passes.plan import ActivationQuant
from mpqtool.report.ranges import ranges

RELU = ActivationQuant(name="relu", bits=4, scale=0.5, zero_point=0)
SIGNED = ActivationQuant(name="signed", bits=2, scale=8.0, zero_point=2)
OPEN = ActivationQuant(name="open", bits=4)


@pytest.mark.parametrize("beta", [-3.0, -0.27, 0.0, 0.4, 100.0])
def test_beta_is_found_again(beta: float) -> None:
    (found,) = ranges([ActivationQuant(name="a", bits=3).with_beta(0.25, beta)])
    # The plan keeps scale and offset as float32 numbers; both of these scales are exact.
    assert found.low == pytest.approx(beta, abs=float(np.spacing(np.float32(abs(beta)))))
    assert found.high == pytest.approx(found.low + 7 * 0.25)


def test_zero_is_at_one_place_and_the_far_ends_are_equally_far() -> None:
    relu, signed = ranges([RELU, OPEN, SIGNED])
    assert (relu.entry, signed.entry) == (RELU, SIGNED)
    assert (relu.low, relu.high, signed.low, signed.high) == (0, 7.5, -16, 8)
    assert relu.zero == signed.zero == 50
    assert (relu.left, relu.right) == (50, 100)
    assert (signed.left, signed.right) == (0, 75)


def test_without_negative_values_zero_is_at_the_left() -> None:
    (relu,) = ranges([RELU])
    assert (relu.zero, relu.left, relu.right) == (0, 0, 100)


def test_positive_beta_leaves_a_gap_to_zero() -> None:
    (found,) = ranges([ActivationQuant(name="a", bits=2, scale=1.0, zero_point=0, offset=3.0)])
    assert (found.zero, found.left, found.right) == (0, 50, 100)


def test_nothing_known_is_nothing_drawn() -> None:
    assert ranges([OPEN]) == []
