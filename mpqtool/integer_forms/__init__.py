"""Integer forms of operators in torch: what each does to codes instead of real values."""

from __future__ import annotations

__all__ = ["INTEGER_FORMS", "Codes", "Pending", "WeightCodes", "as_real", "first", "quantize"]

from collections.abc import Callable
from typing import Any

from . import average, elementwise, moves, products, softmax, tables, weighted
from .values import Codes, Pending, WeightCodes, as_real, first, quantize

INTEGER_FORMS: dict[str, Callable[..., Any]] = {
    **weighted.FORMS,
    **elementwise.FORMS,
    **average.FORMS,
    **moves.FORMS,
    **products.FORMS,
    **tables.FORMS,
    **softmax.FORMS,
}
"""By operator: a function of what the operator calls in torch, and its arguments."""
