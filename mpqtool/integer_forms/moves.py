"""Operators that only move or pick values."""

from __future__ import annotations

__all__ = ["FORMS"]

from collections.abc import Callable
from typing import Any

from torch import Tensor

from mpqtool.importer import padding
from mpqtool.passes.placement import MOVES

from .values import Codes


def _moved(op: Callable[..., Any], x: Any, *args: Any, **kwargs: Any) -> Any:
    """An operator that moves or picks values: it does the same to codes, whose zero is the real one.

    One that gives several values is two steps: the first gives a tuple, and the next takes a part of it.
    """
    if isinstance(x, tuple):
        return op(x, *args, **kwargs)
    if not isinstance(x, Codes):
        return NotImplemented
    moved = op(x.centered, *args, **kwargs)
    return tuple(map(x.with_centered, moved)) if isinstance(moved, tuple) else x.with_centered(moved)


def _max_pool(op: Callable[..., Any], x: Any, *args: Any, **kwargs: Any) -> Any:
    if not isinstance(x, Codes):
        return NotImplemented
    moved = op(x.centered, *args, **kwargs)
    return x.with_centered(moved) if isinstance(moved, Tensor) else NotImplemented  # with indices


def _pad(op: Callable[..., Any], x: Any, pads: Any, *args: Any) -> Any:
    """What is padded with 0 is padded with the code of 0; copies of elements are copies of codes."""
    if op is padding.pad and (isinstance(args[0], Tensor) or args[0] not in (0, (0,))):
        return NotImplemented
    return _moved(op, x, pads, *args)


FORMS: dict[str, Callable[..., Any]] = {**dict.fromkeys(MOVES, _moved), "MaxPool": _max_pool, "Pad": _pad}
