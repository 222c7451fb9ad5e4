from __future__ import annotations

import numpy as np
import pytest

from mpqtool.runtime.tally import Tally


def _codes(*numbers: int) -> dict[str, np.ndarray]:
    return {"v": np.array(numbers, np.uint8)}


def test_an_element_counts_once_for_all_engines() -> None:
    tally = Tally({"v": "codes"})

    tally.batch(_codes(1, 2, 3), {"a": _codes(1, 2, 4), "b": _codes(9, 2, 4), "c": _codes(1, 2, 3)})

    (row,) = tally.rows
    assert (row.compared, row.different, row.largest) == (3, 2, 8)
    assert tally.first_different == "v (a)"
    assert tally.complete({"a", "b", "c"})


@pytest.mark.parametrize(("found", "different", "off_by_one"), [((1, 3), 0, 1), ((1, 4), 1, 0)])
def test_an_island_may_be_off_by_one(found: tuple[int, int], different: int, off_by_one: int) -> None:
    tally = Tally({"v": "island"})

    tally.batch(_codes(1, 2), {"a": _codes(*found)})

    (row,) = tally.rows
    assert (row.different, row.island_different) == (different, off_by_one)
    assert (tally.first_different is None) is (different == 0)


def test_not_a_number_differs() -> None:
    tally = Tally({"v": "float"})

    tally.batch({"v": np.array([1.0])}, {"a": {"v": np.array([np.nan])}})

    assert tally.rows[0].different == 1
    assert tally.rows[0].largest == np.inf


@pytest.mark.parametrize("kinds", [{}, {"v": "codes"}], ids=["no-tensors", "no-batches"])
def test_nothing_is_not_complete(kinds: dict[str, str]) -> None:
    assert not Tally(kinds).complete(set())


def test_an_engine_that_never_ran_is_not_complete() -> None:
    tally = Tally({"v": "codes"})
    tally.batch(_codes(1), {"a": _codes(1)})

    assert tally.complete({"a"})
    assert not tally.complete({"a", "b"})


def test_differences_from_qdq_are_counted_apart() -> None:
    tally = Tally({"v": "codes"})

    tally.qdq_batch(_codes(1, 200, 3), _codes(1, 198, 4))

    (row,) = tally.rows
    assert (row.qdq_compared, row.qdq_different, row.qdq_largest) == (3, 2, 2)
    assert tally.first_different is None
