"""Say what a pool with ``ceil_mode`` computes without it."""

from __future__ import annotations

__all__ = ["WholeWindows", "whole_windows"]

from typing import NamedTuple

import onnx_ir as ir

from ..values import int_attribute, is_op, text_attribute
from ..windows import divisors


class WholeWindows(NamedTuple):
    """Pads that make every window of a pool whole, all begins and then all ends; sizes of the result."""

    pads: list[int]
    sizes: list[int]


def whole_windows(node: ir.Node) -> WholeWindows | None:
    """The windows of a MaxPool or AveragePool with ``ceil_mode``; None for others, and for free sizes."""
    if not is_op(node, "MaxPool", "AveragePool") or not int_attribute(node, "ceil_mode", 0):
        return None
    shape = None if node.inputs[0] is None else node.inputs[0].shape
    if shape is None or text_attribute(node, "auto_pad", "NOTSET") not in ("NOTSET", "VALID"):
        return None
    window = list(node.attributes.get_ints("kernel_shape", []))
    sizes, rank = [size for size in shape[2:] if isinstance(size, int)], len(window)
    if len(sizes) != rank or len(shape) != rank + 2:
        return None
    pads = list(node.attributes.get_ints("pads", [0] * 2 * rank))
    strides, dilations = (
        list(node.attributes.get_ints(name, [1] * rank)) for name in ("strides", "dilations")
    )
    counts, beyond = divisors(sizes, window, strides, pads, dilations, ceil_mode=True, count_padding=False)
    ends = [pad + more for pad, more in zip(pads[rank:], beyond, strict=True)]
    return WholeWindows([*pads[:rank], *ends], list(counts.shape))
