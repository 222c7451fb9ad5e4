from __future__ import annotations

import pytest

from mpqtool.methods.groups import Weights, weight_groups
from mpqtool.passes.plan import Grid
from mpqtool.quantizers import WeightQuantizer


def _quantizers(grid: Grid = Grid.ODD) -> list[WeightQuantizer]:
    return [
        WeightQuantizer("a", (3, 1, 2, 0), grid, elements=9),
        WeightQuantizer("b", (2, 2), grid, elements=4),
    ]


@pytest.mark.parametrize(
    ("granularity", "sizes"),
    [("kernel", [1, 1, 1, 1]), ("layer", [2, 2]), ("network", [4])],
)
def test_groups_are_of_kernels_that_have_a_bit_to_give(granularity: str, sizes: list[int]) -> None:
    groups = weight_groups(_quantizers(), granularity)
    assert [sum(len(able) for _, able in group.kernels) for group in groups] == sizes


def test_every_kernel_of_a_group_loses_a_bit_but_those_that_have_none_to_give() -> None:
    quantizers = _quantizers()
    (group,) = weight_groups(quantizers, "network")
    group.take_a_bit()
    assert [q.bits.tolist() for q in quantizers] == [[2, 1, 1, 0], [1, 1]]
    group.take_a_bit()
    assert [q.bits.tolist() for q in quantizers] == [[1, 1, 1, 0], [1, 1]]
    assert group.is_empty
    assert weight_groups(quantizers, "network") == []


def test_a_kernel_loses_a_bit_alone() -> None:
    quantizer = _quantizers()[0]
    Weights([quantizer], 2).take_a_bit()
    assert quantizer.bits.tolist() == [3, 1, 1, 0]
    last = Weights([quantizer], 2)
    assert last.is_empty
    last.take_a_bit()
    assert quantizer.bits.tolist() == [3, 1, 1, 0]


def test_the_last_bit_goes_where_kernels_are_pruned() -> None:
    quantizer = _quantizers()[0]
    kernels = weight_groups([quantizer], "kernel", prune=True)
    assert [group.kernel for group in kernels] == [0, 1, 2]  # what has none is not there again
    kernels[1].take_a_bit()
    assert quantizer.bits.tolist() == [3, 0, 2, 0]
    full = WeightQuantizer("a", (2,), Grid.FULL, elements=9)
    assert weight_groups([full], "kernel", prune=True) == []


def test_grids_with_0_keep_two_bits() -> None:
    quantizer = WeightQuantizer("a", (3, 2, 2), Grid.FULL, elements=9)
    (group,) = weight_groups([quantizer], "kernel")
    assert group.kernels[0][1].tolist() == [0]
