"""Lower GlobalAveragePool and AveragePool."""

from __future__ import annotations

__all__ = ["LowerAveragePoolPass"]

import math

import numpy as np
import onnx_ir as ir

from .. import arithmetic
from ..constants import constant
from .build import CONTRIB, lower_each, params, refuse, replace, zero_point
from .match import Codes, Requantization, dequantized, requantization

_LEAST_FACTOR, _MOST_FACTOR = 2.0**-32, 2.0**8
"""QLinearGlobalAveragePool refuses to run with a multiplier below the first, or not below the second."""


class LowerAveragePoolPass(ir.passes.InPlacePass):
    """Replace averages of codes.

    ``DQ(x) -> GlobalAveragePool -> Q`` becomes QLinearGlobalAveragePool, which multiplies the sum by
    ``float32(s_x / float32(s_y * count))``.

    ``DQ(x) -> AveragePool -> Q`` becomes a depthwise QLinearConv whose weight codes are 1 and whose weight
    scale is ``float32(1 / count)``: exact, while QLinearAveragePool is not.

    A GlobalAveragePool is left alone if the multiplier is out of the range that QLinearGlobalAveragePool
    computes in. An AveragePool is left alone if it pads and does not count the padding, rounds its size
    up, pads automatically, or the number of channels is unknown.
    """

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        return lower_each(model, ["GlobalAveragePool", "AveragePool"], _lower)


def _lower(graph: ir.Graph, node: ir.Node) -> bool:
    x = dequantized(node.inputs[0])
    if x is None:
        return refuse(node, "its input is not quantized")
    end = requantization(node)
    if end is None:
        return refuse(node, "its result is used before it is quantized")
    inputs = [x.value, *params(graph, x)]
    if node.op_type == "GlobalAveragePool":
        if not _in_range(x, end):
            return refuse(node, "the scales of its input and result are too far apart")
        pool = ir.node(
            "QLinearGlobalAveragePool",
            [*inputs, *params(graph, end)],
            {"channels_last": 0},
            domain=CONTRIB,
            name=node.name,
        )
        return replace(node, end, [pool])
    attributes = node.attributes
    pads, window = attributes.get_ints("pads", []), attributes.get_ints("kernel_shape", [])
    if any(pads) and not attributes.get_int("count_include_pad", 0):
        return refuse(node, "it pads, and the padding does not count, so that the divisor varies")
    if attributes.get_int("ceil_mode", 0) or attributes.get_string("auto_pad", "NOTSET") not in (
        "NOTSET",
        "VALID",
    ):
        return refuse(node, "it rounds its size up or pads automatically, so that the divisor varies")
    channels = x.value.shape[1] if x.value.shape is not None and len(x.value.shape) > 1 else None
    if not isinstance(channels, int):
        return refuse(node, "its number of channels is not known")
    shape = (channels, 1, *window)
    ones = constant(graph, "ones." + "x".join(map(str, shape)), np.ones(shape, np.int8))
    scale = np.full(channels, np.float32(1 / math.prod(window)), np.float32)
    inputs += [ones, constant(graph, f"mean{math.prod(window)}.{channels}", scale)]
    inputs += [zero_point(graph, np.int8(0)), *params(graph, end)]
    kept = {k: v for k, v in attributes.items() if k in ("dilations", "kernel_shape", "pads", "strides")}
    conv = ir.node("QLinearConv", inputs, {**kept, "group": channels}, name=node.name)
    return replace(node, end, [conv])


def _in_range(x: Codes, end: Requantization) -> bool:
    spatial = tuple(x.value.shape)[2:] if x.value.shape is not None else ()
    known = [size for size in spatial if isinstance(size, int)]
    counts = [math.prod(known)] if spatial and len(known) == len(spatial) else [1, 2**24]
    factors = [float(arithmetic.mean_multiplier(x.scale, end.scale, count)) for count in counts]
    return min(factors) >= _LEAST_FACTOR and max(factors) < _MOST_FACTOR
