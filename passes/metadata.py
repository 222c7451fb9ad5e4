"""Names and notes that a quantized file carries, so that the next step needs nothing beside the file.

Notes are ``metadata_props`` of nodes. They survive saving, the checker and loading, and cost a few bytes.
"""

from __future__ import annotations

__all__ = [
    "BITS",
    "DOMAIN",
    "EXACT",
    "FLOAT",
    "GRID",
    "ISLAND",
    "KEPT",
    "LEFT_FLOAT",
    "NAME",
    "NEEDED",
    "OFFSET",
    "PACKED",
    "PADDING",
    "SHIFT",
    "SUFFIX",
    "TARGET",
    "VNNI",
    "WEIGHT",
    "WEIGHTS",
    "WEIGHT_BITS",
    "codes_name",
    "digits",
    "from_digits",
    "from_ranges",
    "ranges",
]

from collections.abc import Iterable

DOMAIN = "mpqtool"
"""The domain of the functions that a file of ours carries."""

PACKED = 3
"""The version of that domain in a file with packed weights; it rises with each change to the streams or to
the functions that unpack them."""

BITS = "mpqtool.bits"
"""On Q and DQ: the width of an activation, or one digit per kernel of a weight. On what lowering makes:
the width of the result."""
GRID = "mpqtool.grid"
"""On the DQ of a weight: ``Grid`` value."""
NAME = "mpqtool.name"
"""On Q and DQ: the name in the plan."""
OFFSET = "mpqtool.offset"
"""On Q and DQ: the offset of the activation, if it has one; the DQ gives the value without it. On the Sub and
Add of the offset, and on the DQ of a bias that is there for it alone: empty."""
PADDING = "mpqtool.padding"
"""On Q and DQ: what pads the activation, if it is not its offset."""
SHIFT = "mpqtool.shift"
"""On the DQ of a weight: how many bits its codes are shifted by, if any."""
WEIGHT = "mpqtool.weight"
"""On an integer Conv or Gemm: the name of its weight in the plan."""
WEIGHT_BITS = "mpqtool.weight_bits"
"""On an integer Conv or Gemm: one digit per kernel."""
WEIGHTS = "mpqtool.weights"
"""On an integer Conv or Gemm of which weights were removed: how many there were."""
KEPT = "mpqtool.kept"
"""On a node whose result has lost channels: which of them are left, as ``ranges``."""
ISLAND = "mpqtool.island"
"""On a float operator of an integer file: why it is float. On what ends an island: empty."""
EXACT = "mpqtool.exact"
"""On elementwise float nodes that compute codes exactly: the operator they stand for."""
FLOAT = "mpqtool.float"
"""On an operator that could be integer and was left in float, as that is faster: the name of its first
output in the QDQ file."""
LEFT_FLOAT = "mpqtool.left_float"
"""On the model: ``left_float`` of its plan as JSON, if any."""
TARGET = "mpqtool.target"
"""On the model: what an integer file was made for, of ``targets.TARGETS``."""
VNNI = "mpqtool.vnni"
"""On the model: ``NEEDED`` where sums of int8 weights could saturate on a CPU without VNNI."""
NEEDED = "needed"

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


def ranges(numbers: Iterable[int]) -> str:
    """Ascending integers: ``[0, 1, 2, 5]`` is ``0-2,5``."""
    spans: list[list[int]] = []
    for number in numbers:
        if spans and number == spans[-1][1] + 1:
            spans[-1][1] = number
        else:
            spans.append([number, number])
    return ",".join(str(a) if a == b else f"{a}-{b}" for a, b in spans)


def from_ranges(text: str) -> list[int]:
    """The inverse of ``ranges``."""
    numbers: list[int] = []
    for span in text.split(","):
        first, _, last = span.partition("-")
        numbers.extend(range(int(first), int(last or first) + 1))
    return numbers
