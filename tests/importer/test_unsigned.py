from __future__ import annotations

import pytest
import torch

from mpqtool.importer.unsigned import as_float64, as_int64, from_ordered, in_order

DTYPES = [torch.uint16, torch.uint32, torch.uint64]


@pytest.mark.parametrize("dtype", DTYPES)
def test_order_survives_and_numbers_come_back(dtype: torch.dtype) -> None:
    high = torch.iinfo(dtype).max
    numbers = torch.tensor([0, 1, high // 2, high // 2 + 1, high - 1, high], dtype=dtype)
    ordered = in_order(numbers)
    assert (ordered.diff() > 0).all()
    back = from_ordered(ordered, dtype)
    assert back.dtype == dtype
    assert back.tolist() == numbers.tolist()


@pytest.mark.parametrize("dtype", DTYPES)
def test_sums_wrap_as_in_the_type_itself(dtype: torch.dtype) -> None:
    high = torch.iinfo(dtype).max
    total = as_int64(torch.tensor([high, 5], dtype=dtype)).sum()
    assert total.to(dtype).item() == 4


@pytest.mark.parametrize("dtype", [torch.bool, torch.int32, torch.uint8, torch.float32])
def test_other_types_stay(dtype: torch.dtype) -> None:
    x = torch.ones(2, dtype=dtype)
    assert as_int64(x) is x
    assert in_order(x) is x


def test_only_integers_become_float64() -> None:
    half = torch.tensor([0.5], dtype=torch.float16)
    assert as_float64(half) is half
    assert as_float64(torch.tensor([3], dtype=torch.int8)).dtype == torch.float64
