"""Names and notes that a quantized file carries, so that the next step needs nothing beside the file.

Notes are ``metadata_props`` of nodes. They survive saving, the checker and loading, and cost a few bytes.
"""

from __future__ import annotations

__all__ = [
    "BITS",
    "DOMAIN",
    "EXACT",
    "GRID",
    "ISLAND",
    "NAME",
    "SUFFIX",
    "TIE",
    "WEIGHT",
    "WEIGHT_BITS",
    "codes_name",
    "digits",
    "from_digits",
]

from collections.abc import Iterable

DOMAIN = "mpqtool"
"""The domain of the functions that a file of ours carries, in version 1."""

BITS = "mpqtool.bits"
"""On Q and DQ: the width of an activation, or one digit per kernel of a weight. On what lowering makes:
the width of the result."""
GRID = "mpqtool.grid"
"""On the DQ of a weight: ``Grid`` value."""
NAME = "mpqtool.name"
"""On Q and DQ: the name in the plan."""
TIE = "mpqtool.tie"
"""On Q and DQ: the tie of the activation."""
WEIGHT = "mpqtool.weight"
"""On an integer Conv or Gemm: the name of its weight in the plan."""
WEIGHT_BITS = "mpqtool.weight_bits"
"""On an integer Conv or Gemm: one digit per kernel."""
ISLAND = "mpqtool.island"
"""On a float operator of an integer file: why it is float. On the Cast that ends an island: empty."""
EXACT = "mpqtool.exact"
"""On elementwise float nodes that compute codes exactly: the operator they stand for."""

SUFFIX = ".codes"
"""What the name of codes ends in."""


def codes_name(name: str) -> str:
    """The name of the codes of the value ``name``, the same in the QDQ and in the integer file."""
    return name + SUFFIX


def digits(bits: Iterable[int]) -> str:
    """One digit per kernel; 0 to 8 fit."""
    return "".join(str(b) for b in bits)


def from_digits(text: str) -> tuple[int, ...]:
    """The inverse of ``digits``."""
    return tuple(int(digit) for digit in text)
