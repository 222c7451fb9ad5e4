from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from mpqtool.passes import metadata


@given(st.lists(st.integers(0, 8)))
def test_digits_are_read_back(bits: list[int]) -> None:
    assert metadata.from_digits(metadata.digits(bits)) == tuple(bits)


def test_codes_are_called_after_their_value() -> None:
    assert metadata.codes_name("r") == "r" + metadata.SUFFIX == "r.codes"
