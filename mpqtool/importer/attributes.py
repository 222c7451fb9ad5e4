"""What handlers ask of the values they get: one of a few words, one number."""

from __future__ import annotations

__all__ = ["one_of", "single"]

from collections.abc import Collection
from typing import Any

import onnx_ir as ir

from .registry import unsupported


def one_of(node: ir.Node, name: str, value: str, allowed: Collection[str]) -> str:
    """Return the value of an attribute that has to be one of these.

    Raises:
        UnsupportedOpError: It is none of them.
    """
    if value not in allowed:
        raise unsupported(node, f"{name}={value!r}, allowed are {', '.join(allowed)}. Export the model again")
    return value


def single(value: Any) -> Any:
    """The number of a ``known`` input that is one, though the file may have it in a list."""
    while isinstance(value, tuple):
        (value,) = value
    return value
