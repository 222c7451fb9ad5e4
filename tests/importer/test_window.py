from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from mpqtool.importer.window import ceil_pads, same_pads, spatial_attributes, split_pads, torch_pads, windows


def test_torch_pads_are_the_last_axis_first() -> None:
    x = torch.zeros(1, 1, 2, 2)
    assert F.pad(x, torch_pads((1, 0, 2, 3))).shape == (1, 1, 5, 5)
    assert torch_pads((1, 2, 3, 4)) == [2, 4, 1, 3]


@pytest.mark.parametrize(
    ("size", "kernel", "stride", "dilation", "upper", "lower"),
    [
        (5, 4, 1, 1, (1, 2), (2, 1)),
        (5, 3, 2, 1, (1, 1), (1, 1)),
        (6, 3, 2, 1, (0, 1), (1, 0)),
        (6, 2, 1, 3, (1, 2), (2, 1)),
        (8, 1, 4, 1, (0, 0), (0, 0)),  # strides over elements: nothing is cut off
    ],
)
def test_same_pads(
    size: int, kernel: int, stride: int, dilation: int, upper: tuple[int, ...], lower: tuple[int, ...]
) -> None:
    geometry = ([size], [kernel], [stride], [dilation])
    assert same_pads(*geometry, "SAME_UPPER") == upper
    assert same_pads(*geometry, "SAME_LOWER") == lower


@pytest.mark.parametrize(
    ("size", "kernel", "stride", "pads", "fitted"),
    [
        (5, 2, 2, (0, 0), (0, 1)),
        (4, 2, 2, (0, 0), (0, 0)),
        (2, 1, 2, (0, 1), (0, -1)),  # a second window would start in the padding
        (4, 3, 5, (2, 2), (2, 2)),
    ],
)
def test_ceil_pads(
    size: int, kernel: int, stride: int, pads: tuple[int, ...], fitted: tuple[int, ...]
) -> None:
    assert ceil_pads([size], [kernel], [stride], [1], pads) == fitted


def test_defaults_of_the_schemas() -> None:
    assert spatial_attributes(2, None, None, (2, 1), "NOTSET") == ((1, 1), (0, 0, 0, 0), (2, 1))
    assert spatial_attributes(1, (3,), (1, 1), None, "VALID") == ((3,), (0, 0), (1,))


def test_windows_are_a_view() -> None:
    x = torch.arange(7.0).view(1, 1, 7)
    view = windows(x, (2,), (2,), (3,))
    torch.testing.assert_close(view[0, 0], torch.tensor([[0.0, 3.0], [2.0, 5.0]]), rtol=0, atol=0)
    assert view.untyped_storage().data_ptr() == x.untyped_storage().data_ptr()


def test_the_odd_one_of_split_pads() -> None:
    assert split_pads([3, 2], "SAME_UPPER") == (1, 1, 2, 1)
    assert split_pads([3, 2], "SAME_LOWER") == (2, 1, 1, 1)
