"""Write ``codes * ratio + shift`` as one QLinearAdd, where that is exact."""

from __future__ import annotations

__all__ = ["affine"]

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from ..constants import constant
from ..values import unused_name
from .build import CONTRIB, shaped
from .match import Codes, Requantization

_ROUNDING = 6 * 2.0**-24
"""Relative to the largest number on the way: QLinearAdd rounds six times at most, each to half a last bit."""


def affine(
    graph: ir.Graph,
    node: ir.Node,
    x: Codes,
    end: Requantization,
    ratio: np.float32,
    shift: np.float32,
    table: NDArray[np.uint8],
) -> list[ir.Node]:
    """``rint((x - z_x) * ratio + shift + z_y)`` as a QLinearAdd of one number, and a Clip where it needs one.

    Where QLinearAdd rounds on its way depends on the CPU. But there are only 256 codes: if none of their
    results is so near to a boundary that it matters, and all are those of the table, it computes the table.

    Args:
        graph: Where the constants go.
        node: What this stands for.
        x: The codes.
        end: What followed the node.
        ratio: Codes of the result per code; negative where it falls.
        shift: In codes of the result.
        table: ``(256,)``: what is to come out, by code.

    Returns:
        The nodes; none where QLinearAdd might compute something else.
    """
    if not np.isfinite(ratio) or not np.isfinite(shift):
        return []
    codes = np.arange(x.high + 1)
    exact = (codes - x.zero_point) * float(ratio) + float(shift) + end.zero_point
    largest = abs(float(ratio)) * max(x.zero_point, x.high) + abs(float(shift)) + end.zero_point
    low, high = int(table[codes].min()), int(table[codes].max())
    below, above = (np.rint(exact + error) for error in (-_ROUNDING * largest, _ROUNDING * largest))
    if any((np.clip(found, low, high) != table[codes]).any() for found in (below, above)):
        return []
    minus = bool(shift < 0)
    inputs = [
        *(x.value, _number(graph, ratio), _code(graph, x.zero_point)),
        *(_code(graph, 1 - minus), _number(graph, abs(shift)), _code(graph, int(minus))),
        *(_number(graph, np.float32(1)), _code(graph, end.zero_point)),
    ]
    add = ir.node("QLinearAdd", inputs, domain=CONTRIB, name=node.name)
    within = low == 0 or below.min() >= low, high == 255 or above.max() <= high
    if all(within):
        return [add]
    shaped(add.outputs[0], unused_name(graph, f"{end.codes.name}.wide"), ir.DataType.UINT8, end.codes)
    return [add, ir.node("Clip", [add.outputs[0], _code(graph, low), _code(graph, high)])]


def _number(graph: ir.Graph, number: np.float32) -> ir.Value:
    return constant(graph, f"float{number:g}", np.float32(number))


def _code(graph: ir.Graph, code: int) -> ir.Value:
    return constant(graph, f"code{code}", np.uint8(code))
