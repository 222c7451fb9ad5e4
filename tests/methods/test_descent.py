"""Widths come down in the order of what they cost the outputs, and numbers are found by halves."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mpqtool.methods.descent import Point, first_that_holds, steps_down


def test_the_least_noise_for_what_is_saved_goes_first() -> None:
    cheap = Point("cheap", cost=1.0, bits=4, noise={2: 0.9, 3: 0.3, 4: 0.1})
    dear = Point("dear", cost=4.0, bits=4, noise={2: 2.0, 3: 0.5, 4: 0.1})
    # Per unit of cost: cheap 0.2 then 0.6, dear 0.1 then 0.375.
    assert steps_down([cheap, dear]) == ["dear", "cheap", "dear", "cheap"]


def test_every_width_is_reached_and_none_below() -> None:
    points = [Point(str(k), cost=1 + k, bits=8, noise={b: 2.0**-b for b in range(2, 9)}) for k in range(3)]
    order = steps_down(points)
    assert sorted(order) == sorted([str(k) for k in range(3)] * 6)


def test_what_saves_nothing_keeps_its_bits() -> None:
    noise = {2: 0.2, 3: 0.1}
    assert steps_down([Point("free", 0.0, 3, noise), Point("paid", 1.0, 3, noise)]) == ["paid"]


def test_an_estimate_that_falls_with_the_width_counts_as_no_noise() -> None:
    odd = Point("odd", 1.0, 4, {2: 0.5, 3: 0.1, 4: 0.4})
    plain = Point("plain", 1.0, 4, {2: 0.3, 3: 0.2, 4: 0.1})
    assert steps_down([plain, odd]) == ["odd", "plain", "plain", "odd"]


@given(st.integers(0, 40), st.integers(0, 40))
def test_the_first_number_is_found_in_few_tries(high: int, first: int) -> None:
    asked: list[int] = []

    def holds(number: int) -> bool:
        asked.append(number)
        return number >= first

    assert first_that_holds(0, high, holds) == min(first, high)
    assert len(asked) == len(set(asked)) <= high.bit_length()


@pytest.mark.parametrize("low", [3, 5])
def test_below_the_first_nothing_is_asked(low: int) -> None:
    assert first_that_holds(low, 9, lambda number: number >= 0) == low
