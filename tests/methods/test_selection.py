from __future__ import annotations

import pytest

from mpqtool.methods.groups import Weights
from mpqtool.methods.selection import Step, select
from mpqtool.methods.sensitivity import Ranked

_RANKING = [
    Ranked(Weights([], index), sensitivity) for index, sensitivity in enumerate([1, 3, 2, 4, 8, 16, 32, 64])
]


def _chosen(
    step: Step, *, iteration: int = 0, caution: float = 1.0, begun: int = len(_RANKING)
) -> list[int | None]:
    selected = select(_RANKING, step, iteration=iteration, caution=caution, begun=begun)
    groups = [entry.group for entry in selected]
    return [group.kernel for group in groups if isinstance(group, Weights)]


@pytest.mark.parametrize(
    ("iteration", "caution", "number"),
    [(0, 1, 4), (2, 1, 4), (3, 1, 2), (4, 1, 1), (99, 1, 1), (0, 0.5, 2), (0, 0.01, 1)],
)
def test_shares_fall_and_leave_one_at_least(iteration: int, caution: float, number: int) -> None:
    assert _chosen(Step(), iteration=iteration, caution=caution) == list(range(number))


def test_the_last_groups_of_many_do_not_go_one_by_one() -> None:
    assert _chosen(Step(), iteration=9, begun=80) == [0, 1, 2, 3]
    assert _chosen(Step(), iteration=9, begun=80, caution=0.5) == [0, 1]
    assert _chosen(Step(), iteration=9, begun=800) == list(range(8))


def test_a_number_of_groups() -> None:
    assert _chosen(Step(groups=3), iteration=9) == [0, 1, 2]
    assert _chosen(Step(groups=3), caution=0.25) == [0]
    assert _chosen(Step(groups=300)) == list(range(8))


def test_a_sensitivity_takes_all_below_it_and_what_is_equal() -> None:
    assert _chosen(Step(sensitivity=2)) == [0, 2]
    assert _chosen(Step(sensitivity=2), caution=0.5) == [0]
    assert _chosen(Step(sensitivity=0.5)) == []


def test_a_mismatch_takes_the_longest_beginning_that_fits() -> None:
    # One bit less makes four of the squared step: three times the sensitivity is added.
    assert _chosen(Step(mismatch=3 * (1 + 3 + 2))) == [0, 1, 2]
    assert _chosen(Step(mismatch=3 * (1 + 3 + 2) - 1)) == [0, 1]
    assert _chosen(Step(mismatch=3 * (1 + 3 + 2)), caution=0.5) == [0]
    assert _chosen(Step(mismatch=2)) == []
