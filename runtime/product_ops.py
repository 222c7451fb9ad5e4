"""Products of activations, for ``reference.py``: from node and arrays to ``passes/arithmetic.py``."""

from __future__ import annotations

__all__ = ["OPERATORS"]

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from mpqtool.passes import arithmetic
from mpqtool.passes.lower.build import CONTRIB

from .kernels import one

Array = NDArray[Any]


def _multiply(node: ir.Node, inputs: list[Any]) -> Array:
    a, a_scale, a_zero, b, b_scale, b_zero, y_scale, y_zero = inputs
    return arithmetic.multiply_codes(
        a, one(a_scale), int(one(a_zero)), b, one(b_scale), int(one(b_zero)),
        one(y_scale), int(one(y_zero)), 0, 255,
    )  # fmt: skip


def _matmul(node: ir.Node, inputs: list[Any]) -> Array:
    """Sums of integers in float64: exact in any order below 2**53, which int32 accumulators are far from."""
    a, a_scale, a_zero, b, b_scale, b_zero, y_scale, y_zero = inputs
    acc = np.matmul(a.astype(np.float64) - float(one(a_zero)), b.astype(np.float64) - float(one(b_zero)))
    factor = arithmetic.multiplier(one(a_scale), one(b_scale), one(y_scale))
    return arithmetic.requantize(acc, factor, int(one(y_zero)), 0, 255)


OPERATORS: dict[tuple[str, str], Callable[[ir.Node, list[Any]], Array]] = {
    (CONTRIB, "QLinearMul"): _multiply,
    ("", "QLinearMatMul"): _matmul,
}
"""(domain, operator) -> function of the node and its input arrays, giving the first output."""
