from __future__ import annotations

import numpy as np
import pytest

from mpqtool.runtime.tally import Tally


def _codes(*numbers: int) -> dict[str, np.ndarray]:
    return {"v": np.array(numbers, np.uint8)}


def _tally(kind: str, *required: str) -> Tally:
    return Tally({"v": kind}, {"v": required})


def test_an_element_counts_once_for_all_engines() -> None:
    tally = _tally("codes", "a", "b", "c")

    tally.batch(_codes(1, 2, 3), {"a": _codes(1, 2, 4), "b": _codes(9, 2, 4), "c": _codes(1, 2, 3)})

    (row,) = tally.rows
    assert (row.compared, row.different, row.largest) == (3, 2, 8)
    assert tally.first_different == "v (a)"
    assert tally.complete


@pytest.mark.parametrize(("found", "different", "off_by_one"), [((1, 3), 0, 1), ((1, 4), 1, 0)])
def test_an_island_may_be_off_by_one(found: tuple[int, int], different: int, off_by_one: int) -> None:
    tally = _tally("island")

    tally.batch(_codes(1, 2), {"a": _codes(*found)})

    (row,) = tally.rows
    assert (row.different, row.island_different) == (different, off_by_one)
    assert (tally.first_different is None) is (different == 0)


@pytest.mark.parametrize(("size", "off", "passed"), [(1000, 100, True), (1000, 101, False), (9, 3, True)])
def test_few_codes_of_an_island_may_be_off(size: int, off: int, passed: bool) -> None:
    tally = _tally("island")
    expected = np.zeros(size, np.uint8)
    found = expected.copy()
    found[:off] = 1

    tally.batch({"v": expected}, {"a": {"v": found}})
    tally.limit_islands()

    assert (tally.first_different is None) is passed


def test_engines_that_come_later_do_not_count_again() -> None:
    tally = _tally("codes", "a", "b")

    tally.batch(_codes(1, 2), {"a": _codes(1, 2)})
    tally.batch(_codes(1, 2), {"b": _codes(1, 2)}, again=True)

    assert tally.complete
    assert tally.rows[0].compared == 2


def test_not_a_number_differs() -> None:
    tally = _tally("float")

    tally.batch({"v": np.array([1.0])}, {"a": {"v": np.array([np.nan])}})

    assert tally.rows[0].different == 1
    assert tally.rows[0].largest == np.inf


@pytest.mark.parametrize("kinds", [{}, {"v": "codes"}], ids=["no-tensors", "no-batches"])
def test_nothing_is_not_complete(kinds: dict[str, str]) -> None:
    assert not Tally(kinds, dict.fromkeys(kinds, ())).complete


@pytest.mark.parametrize(("required", "complete"), [(["a"], True), (["a", "b"], False)])
def test_an_engine_that_never_ran_is_not_complete(required: list[str], complete: bool) -> None:
    tally = _tally("codes", *required)
    tally.batch(_codes(1), {"a": _codes(1)})

    assert tally.complete is complete


def test_an_engine_may_leave_out_what_is_not_required_of_it() -> None:
    tally = _tally("float", "a")

    tally.batch(_codes(1), {"a": _codes(1), "b": {}})

    assert tally.complete
    assert tally.first_different is None
    assert tally.rows[0].engines == ("a",)


def test_an_engine_may_not_leave_out_what_is_required_of_it() -> None:
    tally = _tally("codes", "a", "b")

    tally.batch(_codes(1), {"a": _codes(1), "b": {}})

    assert not tally.complete
    assert tally.first_different == "v (b: not computed)"


def test_differences_from_qdq_are_counted_apart() -> None:
    tally = _tally("codes")

    tally.qdq_batch(_codes(1, 200, 3), _codes(1, 198, 4))

    (row,) = tally.rows
    assert (row.qdq_compared, row.qdq_different, row.qdq_largest) == (3, 2, 2)
    assert tally.first_different is None
