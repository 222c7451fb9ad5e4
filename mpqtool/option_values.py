"""What an option may hold: its type, and pairs of bit-widths."""

from __future__ import annotations

__all__ = ["check_types", "parse_bits"]

import dataclasses
import re
import types
from typing import TYPE_CHECKING, get_args, get_origin, get_type_hints

from .errors import OptionError

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

_BITS = re.compile(r"W(\d+(?:\.\d+)?)A(\d+(?:\.\d+)?)", re.IGNORECASE)
_LEAST_BITS, _MOST_BITS = 1.0, 8.0


def parse_bits(text: str, *, least_weights: float = _LEAST_BITS) -> tuple[float, float]:
    """Read ``W3A6`` or ``W2.5A6``: bits of weights and of activations.

    Args:
        text: The text.
        least_weights: Fewest bits of weights; 0 where kernels may have none.

    Raises:
        OptionError: The text has another form, or a width is not 1 to 8.
    """
    match = _BITS.fullmatch(text.strip())
    if match is None:
        raise OptionError(f"{text!r} is not a pair of bit-widths; write W3A6 for weights 3, activations 6")
    weights, activations = (float(part) for part in match.groups())
    for what, bits, least in (("weight", weights, least_weights), ("activation", activations, _LEAST_BITS)):
        if not least <= bits <= _MOST_BITS:
            raise OptionError(f"{text!r}: {what} bits must be {least:g} to 8, got {bits:g}")
    return weights, activations


def check_types(options: DataclassInstance) -> None:
    """See that every field of some options has the type that it is annotated with.

    Raises:
        OptionError: One has not.
    """
    hints = get_type_hints(type(options))
    for field in dataclasses.fields(options):
        name, value, kind = field.name.rstrip("_"), getattr(options, field.name), hints[field.name]
        if isinstance(kind, types.UnionType):  # ``int | None``
            kind = get_args(kind)[0]
        if value is None and field.default is None:
            continue
        if get_origin(kind) is tuple:
            kind = get_args(kind)[0]
            if not isinstance(value, tuple | list) or not all(_is_a(kind, entry) for entry in value):
                raise OptionError(f"{name} must be a tuple of {kind.__name__}, got {value!r}")
        elif not _is_a(kind, value):
            raise OptionError(f"{name} must be of type {kind.__name__}, got {value!r}")


def _is_a(kind: type, value: object) -> bool:
    """Whether a value is of a type; an int is a float, and True is no number."""
    allowed = (int, float) if kind is float else kind
    return isinstance(value, allowed) and (kind is bool or not isinstance(value, bool))
