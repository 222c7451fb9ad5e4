from __future__ import annotations

import itertools

import numpy as np
import pytest

from mpqtool.fastest import cut
from mpqtool.fastest.costs import Costs
from mpqtool.fastest.cut import cheapest


def _chain(integer: list[float], real: list[float], elements: int = 0) -> Costs:
    count = len(integer)
    crossings = [(None, (0,), elements), *((i, (i + 1,), elements) for i in range(count - 1))]
    return Costs(tuple((f"v{i}",) for i in range(count)), tuple(integer), tuple(real), tuple(crossings))


def _price(costs: Costs, chosen: frozenset[int]) -> float:
    """The sum that is to be least, by its definition."""
    total = sum(costs.real[u] if u in chosen else costs.integer[u] for u in range(len(costs.real)))
    for maker, users, elements in costs.crossings:
        if maker is None:
            continue
        if maker in chosen and any(user not in chosen for user in users):
            total += cut._NODE + cut._QUANTIZE * elements / 1000
        if maker not in chosen and any(user in chosen for user in users):
            total += cut._NODE + cut._DEQUANTIZE * elements / 1000
    return total


def test_each_unit_gets_its_faster_form_where_borders_are_cheap() -> None:
    assert cheapest(_chain([100, 10, 100], [10, 100, 10])) == {0, 2}


def test_a_unit_stays_as_its_neighbours_where_borders_are_dear() -> None:
    assert cheapest(_chain([100, 10, 100], [10, 100, 10], elements=100_000)) == {0, 1, 2}


def test_dearer_borders_make_fewer() -> None:
    costs = _chain([100, 10, 100], [10, 100, 10])

    assert cheapest(costs, weight=100) == {0, 1, 2}


@pytest.mark.parametrize("seed", range(20))
def test_no_division_is_cheaper(seed: int) -> None:
    rng = np.random.default_rng(seed)
    count = 6
    crossings = [(None, (0,), 5000)]
    for maker in range(count - 1):
        users = sorted({maker + 1, *rng.integers(maker + 1, count, 2).tolist()})
        crossings.append((maker, tuple(users), int(rng.integers(0, 40_000))))  # type: ignore[arg-type]
    times = rng.integers(1, 60, (2, count)).astype(float).tolist()
    costs = Costs(tuple((f"v{i}",) for i in range(count)), tuple(times[0]), tuple(times[1]), tuple(crossings))
    everything = [
        frozenset(c) for size in range(count + 1) for c in itertools.combinations(range(count), size)
    ]

    found = cheapest(costs)

    assert _price(costs, found) == pytest.approx(min(_price(costs, chosen) for chosen in everything))
