"""Operators that only move or pick values."""

from __future__ import annotations

__all__ = ["FORMS"]

from collections.abc import Callable
from typing import Any

from torch import Tensor

from mpqtool.passes.placement import MOVES

from .values import Codes


def _moved(op: Callable[..., Tensor], x: Any, *args: Any, **kwargs: Any) -> Any:
    """An operator that moves or picks values: it does the same to codes."""
    return x.with_centered(op(x.centered, *args, **kwargs)) if isinstance(x, Codes) else NotImplemented


FORMS: dict[str, Callable[..., Any]] = dict.fromkeys(("MaxPool", *MOVES), _moved)
