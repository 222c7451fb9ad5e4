from __future__ import annotations

import numpy as np
import pytest

from mpqtool.passes.windows import divisors


@pytest.mark.parametrize(
    ("size", "pads", "ceil_mode", "count_padding", "expected", "beyond"),
    [
        pytest.param(6, (0, 0), False, False, [3, 3], 0, id="plain"),
        pytest.param(7, (1, 1), False, False, [2, 3, 3, 2], 0, id="padding-does-not-count"),
        pytest.param(7, (1, 1), False, True, [3, 3, 3, 3], 0, id="padding-counts"),
        pytest.param(6, (0, 0), True, False, [3, 3, 2], 1, id="last-window-reaches-beyond"),
        pytest.param(6, (0, 1), True, True, [3, 3, 3], 0, id="padding-makes-it-whole"),
        pytest.param(6, (1, 1), True, True, [3, 3, 3, 2], 1, id="beyond-never-counts"),
        pytest.param(5, (0, 2), True, False, [3, 3, 1], 0, id="in-the-padding-but-for-one"),
        pytest.param(4, (0, 2), True, False, [3, 2], 0, id="none-begins-in-the-padding-at-the-end"),
    ],
)
def test_along_one_axis(
    size: int, pads: tuple[int, int], ceil_mode: bool, count_padding: bool, expected: list[int], beyond: int
) -> None:
    counts, reach = divisors([size], [3], [2], pads, [1], ceil_mode=ceil_mode, count_padding=count_padding)
    np.testing.assert_array_equal(counts, expected)
    assert reach == [beyond]


def test_two_axes_are_multiplied_and_dilated() -> None:
    counts, reach = divisors(
        [4, 3], [2, 2], [1, 1], [2, 0, 0, 1], [2, 1], ceil_mode=False, count_padding=False
    )
    np.testing.assert_array_equal(counts, np.outer([1, 1, 2, 2], [2, 2, 1]))
    assert reach == [0, 0]
