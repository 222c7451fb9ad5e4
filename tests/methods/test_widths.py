from __future__ import annotations

import dataclasses
import itertools
import json
import math
from collections.abc import Callable

import numpy as np
import pytest

from mpqtool.methods.widths import OSCILLATIONS, Width

STEPS = 8


def _loss(bits: int) -> float:
    """Convex: each bit less costs four times as much."""
    return 4.0 ** (4 - bits)


def _descended(
    width: Width,
    *,
    slope: float,
    loss: Callable[[int], float] = _loss,
    noise: Callable[[], float] = lambda: 0.0,
    patience: int = 10**9,
    budget: int = 10**5,
) -> list[int]:
    """Descend the loss and the hardware's slope until the width is settled; the bits after each update."""
    used = []
    for step in range(STEPS, budget, STEPS):
        if width.can_be_measured:
            width.observe(loss(width.bits) - loss(width.bits - 1) + noise())
        if not width.can_be_measured or width.measured:
            width.descend(width.bracket + slope, steps=STEPS, step=step)
            width.settle_if_done(step=step, patience=patience)
        used.append(width.bits)
        if width.is_settled:
            return used
    width.settle("budget")
    return used


@pytest.mark.parametrize("rate", [1e-3, 5e-3])
@pytest.mark.parametrize(
    # A bit is given up where that costs less than the slope: 4 -> 3 costs 3, 3 -> 2 costs 12.
    ("slope", "worth"),
    [(1.0, 4), (5.0, 3), (20.0, 2)],
)
def test_it_oscillates_above_the_last_bit_worth_giving_up(slope: float, worth: int, rate: float) -> None:
    width = Width(value=8, least=1, most=8, rate=rate)
    used = _descended(width, slope=slope)
    assert width.reason == "oscillation"
    assert width.bits == worth + 1  # the larger of the two
    assert width.pair is not None
    assert sorted(width.pair) == [worth, worth + 1]
    changes = [b for a, b in itertools.pairwise(used) if a != b]
    # Down to ``worth``, then OSCILLATIONS changes between the two; settling may be one more, to the larger.
    down = list(range(7, worth - 1, -1))
    to_and_fro = [worth + 1 if i % 2 == 0 else worth for i in range(OSCILLATIONS)]
    assert changes in (down + to_and_fro, down + to_and_fro[:-1])


def test_the_update_is_equation_4() -> None:
    width = Width(value=5.5, least=1, most=8, rate=1e-3)
    assert width.bits == 6
    width.descend(2.0, steps=1, step=1)
    assert width.value == 5.5 - 1e-3 * 2.0
    width.descend(-3.0, steps=8, step=9)
    assert width.value == pytest.approx(5.498 + 8e-3 * 3.0)
    assert (width.bits, width.changed) == (6, 0)


def test_a_batch_moves_it_by_half_a_bit_at_most() -> None:
    width = Width(value=6.5, least=1, most=8, rate=1.0)
    width.descend(100.0, steps=8, step=8)
    assert (width.value, width.bits) == (6.0, 7)  # not 0.05 beyond: still 7
    width.descend(-100.0, steps=8, step=16)
    assert width.value == 6.5


def test_noise_around_a_whole_number_is_no_oscillation() -> None:
    width = Width(value=5.4, least=1, most=8, rate=1.0)
    for step, value in enumerate([4.96, 5.04, 4.951, 5.049, 5.0, 4.99] * 20, start=1):
        width.descend(width.value - value, steps=1, step=step)
        assert width.value == pytest.approx(value)
        assert width.bits == 6
    # Just beyond, it is one: 5 bits, then 6 again.
    used = []
    for step, value in enumerate([4.94, 5.04, 5.06, 4.96, 4.94], start=1000):
        width.descend(width.value - value, steps=1, step=step)
        used.append((width.bits, width.oscillations))
    assert used == [(5, 0), (5, 0), (6, 1), (6, 1), (5, 2)]


def test_noise_within_the_hysteresis_does_not_settle_it() -> None:
    rng = np.random.default_rng(0)
    # Brackets of noise alone: 200 updates go by far less than the hysteresis.
    width = Width(value=4.98, least=1, most=8, rate=1e-5, bits=5)
    _descended(width, slope=0.0, loss=lambda _: 0.0, noise=lambda: rng.normal(), budget=200 * STEPS)
    assert (width.reason, width.oscillations, width.bits) == ("budget", 0, 5)


def _moved(width: Width, *bits: float) -> list[int]:
    """Move N to the middle of these bits, one after the other; the oscillations counted after each."""
    counts = []
    for target in bits:
        while abs(width.value - (target - 0.5)) > 1e-9:  # a step is half a bit at most
            width.descend(
                max(-0.5, min(0.5, width.value - (target - 0.5))) / width.rate, steps=1,
                step=width.changed + 1,
            )  # fmt: skip
        assert width.bits == target
        counts.append(width.oscillations)
    return counts


def test_leaving_the_pair_begins_the_count_anew() -> None:
    width = Width(value=8, least=1, most=8, rate=1.0)
    assert _moved(width, 6, 5, 6, 5, 6, 5) == [0, 0, 1, 2, 3, 4]
    assert _moved(width, 4) == [0]
    assert _moved(width, 5, 4, 5) == [1, 2, 3]
    assert _moved(width, 6) == [0]
    assert _moved(width, 7, 6) == [0, 1]


def test_oscillation_settles_at_the_tenth() -> None:
    width = Width(value=8, least=1, most=8, rate=1.0)
    _moved(width, 5, 6, 5, 6, 5, 6, 5, 6, 5, 6)
    width.settle_if_done(step=width.changed, patience=10**6)
    assert (width.oscillations, width.is_settled) == (9, False)
    _moved(width, 5)
    width.settle_if_done(step=width.changed, patience=10**6)
    assert (width.oscillations, width.reason, width.bits) == (10, "oscillation", 6)
    width.settle_if_done(step=10**7, patience=1)
    assert width.reason == "oscillation"
    assert not width.can_be_measured


@pytest.mark.parametrize(("way", "bits"), [((5, 4), 4), ((4, 5), 5), ((4, 5, 4), 5), ((5, 4, 3), 3)])
def test_budget_takes_the_larger_of_two_it_went_between(way: tuple[int, ...], bits: int) -> None:
    width = Width(value=6, least=1, most=8, rate=1.0)
    _moved(width, *way)
    width.settle("budget")
    assert (width.bits, width.reason) == (bits, "budget")


def test_bound_is_the_end_and_the_bits() -> None:
    width = Width(value=3, least=2, most=8, rate=1e-3)
    used = _descended(width, slope=50.0)
    assert (width.reason, width.bits, width.value) == ("bound", 2, 2.0)
    assert used[-2:] == [3, 2]
    # One that went to and fro before ends there all the same.
    width = Width(value=4, least=2, most=8, rate=1.0)
    _moved(width, 3, 4, 3)
    width.descend(1.0, steps=1, step=9)
    assert (width.reason, width.bits, width.oscillations) == ("bound", 2, 0)
    # So does one that began there, left, and came back.
    width = Width(value=2, least=2, most=8, rate=1.0)
    _moved(width, 3)
    for step in (8, 9):
        width.descend(0.5, steps=1, step=step)
    assert (width.reason, width.bits, width.oscillations) == ("bound", 2, 1)


@pytest.mark.parametrize("least", [1, 2, 3])
def test_the_last_bit_is_never_asked_for(least: int) -> None:
    width = Width(value=least + 0.5, least=least, most=8, rate=1e-3, bits=least)
    assert not width.can_be_measured


def test_a_whole_number_is_not_measured_and_goes_by_the_hardware_alone() -> None:
    """Floor and ceiling are the same there, so the bracket of AdaQAT, section III-C, is 0."""
    width = Width(value=8, least=1, most=8, rate=1e-3)
    assert (width.bits, width.bracket, width.can_be_measured) == (8, 0.0, False)
    width.descend(1.0, steps=8, step=8)
    assert width.can_be_measured
    width.observe(-500.0)
    width.descend(width.bracket, steps=8, step=16)
    assert (width.value, width.bracket, width.measured) == (8.0, 0.0, 0)  # at the top: as at the start


def test_a_width_whose_every_bit_is_needed_stays_at_the_top_and_comes_to_rest() -> None:
    width = Width(value=8, least=1, most=8, rate=1e-3)
    used = _descended(width, slope=1.0, loss=lambda bits: -5.0 * bits, patience=1000)
    assert set(used) == {8}
    assert (width.reason, width.oscillations) == ("stall", 0)
    assert len(used) == math.ceil(1000 / STEPS)


def test_stall_needs_rest_and_patience() -> None:
    def settled(gradient: float, step: int) -> str | None:
        width = Width(value=5.5, least=1, most=8, rate=1e-3, changed=100)
        width.descend(gradient, steps=1, step=step)
        width.settle_if_done(step=step, patience=1000)
        return width.reason

    assert settled(0.1, 1099) is None  # too soon
    assert settled(0.1, 1100) == "stall"  # 0.1 bits in the whole patience
    assert settled(-0.1, 1100) == "stall"
    assert settled(0.26, 1100) is None  # 0.26 bits
    assert settled(-0.26, 1100) is None
    untouched = Width(value=5.5, least=1, most=8, rate=1e-3)
    untouched.settle_if_done(step=10**6, patience=1000)
    assert not untouched.is_settled  # what never moved may just not have been measured


def test_rest_is_judged_by_the_mean_of_many_updates() -> None:
    width = Width(value=5.5, least=1, most=8, rate=1e-3)
    for step in range(40):
        width.descend(2.0, steps=1, step=step)
    width.descend(-2.0, steps=1, step=2000)  # one batch the other way
    width.settle_if_done(step=2000, patience=1000)
    assert not width.is_settled
    for step in range(2001, 2041):
        width.descend(2.0 * (-1) ** step, steps=1, step=step)
    width.settle_if_done(step=2041, patience=1000)
    assert width.reason == "stall"


def test_the_bracket_is_a_mean_of_the_last_ten() -> None:
    width = Width(value=5.5, least=1, most=8, rate=1e-3)
    for bracket in (1.0, 2.0, 6.0):
        width.observe(bracket)
    assert (width.bracket, width.measured) == (3.0, 3)
    for _ in range(100):
        width.observe(-1.0)
    assert width.bracket == pytest.approx(-1, abs=4 * 0.9**93)
    width.observe(9.0)
    assert width.bracket == pytest.approx(0, abs=1e-3)
    _moved(width, 5)
    assert (width.bracket, width.measured) == (0, 0)  # of other bits


@pytest.mark.parametrize("bracket", [math.nan, math.inf, -math.inf])
def test_a_loss_that_is_no_number_says_nothing(bracket: float) -> None:
    width = Width(value=5.5, least=1, most=8, rate=1e-3)
    width.observe(-2.0)
    width.observe(bracket)
    assert (width.bracket, width.measured) == (-2.0, 1)


def test_a_checkpoint_holds_all_of_it() -> None:
    width = Width(value=8, least=1, most=8, rate=1e-2)
    assert Width(**json.loads(json.dumps(dataclasses.asdict(width)))) == width
    _descended(width, slope=5.0, budget=110 * STEPS)
    width.reason = None
    again = Width(**json.loads(json.dumps(dataclasses.asdict(width))))
    assert again == width
    assert again.pair is not None
    for one in (width, again):
        _descended(one, slope=5.0)
    assert again == width


@pytest.mark.parametrize(
    ("gradient", "steps", "falls"), [(1.0, 300, True), (1.0, 100, False), (-1.0, 300, False)]
)
def test_what_the_budget_stops_may_have_been_falling(gradient: float, steps: int, falls: bool) -> None:
    width = Width(6.5, 1, 8, rate=0.005)
    width.descend(gradient, steps=STEPS, step=STEPS)
    assert not width.would_fall(steps)
    width.settle("budget")
    assert width.would_fall(steps) == falls


def test_what_came_to_rest_does_not_fall() -> None:
    width = Width(6.5, 1, 8, rate=0.005, slope=1.0)
    width.settle("stall")
    assert not width.would_fall(10**6)


@pytest.mark.parametrize(
    ("brackets", "step", "bits"),
    [
        ([], 20, 4),  # nothing is known of 3 bits
        ([-2.0], 20, 4),  # 2 bits would cost more than they save: N is on its way up again
        ([-0.5], 20, 3),  # it falls on
        ([-2.0], 200, 3),  # it came down long ago
    ],
)
def test_what_came_down_just_before_the_end_has_to_be_known_to_stay(
    brackets: list[float], step: int, bits: int
) -> None:
    width = Width(value=3.2, least=1, most=8, rate=0.05)
    width.descend(0.75, steps=STEPS, step=8)
    assert (width.value, width.bits) == (pytest.approx(2.9), 3)
    for bracket in brackets:
        width.observe(bracket)
        width.descend(bracket + 1.0, steps=1, step=16)
        assert width.bits == 3
    width.settle_by_budget(step=step, patience=100)
    assert (width.bits, width.reason) == (bits, "budget")
