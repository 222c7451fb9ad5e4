from __future__ import annotations

import pytest
import torch

from mpqtool.importer.broadcast import along


@pytest.mark.parametrize(("axis", "shape"), [(0, (2, 1, 1)), (1, (1, 2, 1)), (2, (1, 1, 2)), (-1, (1, 1, 2))])
def test_along(axis: int, shape: tuple[int, ...]) -> None:
    row = torch.arange(2.0)
    assert along(row, axis, 3).shape == shape
    assert along(row, axis, 3).flatten().tolist() == [0, 1]
