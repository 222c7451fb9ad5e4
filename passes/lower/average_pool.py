"""Lower GlobalAveragePool and AveragePool."""

from __future__ import annotations

__all__ = ["LowerAveragePoolPass"]

import math
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from .. import arithmetic
from ..constants import constant
from ..windows import divisors
from .build import CONTRIB, lower_each, params, refuse, replace, zero_point
from .match import Codes, Requantization, dequantized, requantization
from .steps import Steps

_LEAST_FACTOR, _MOST_FACTOR = 2.0**-32, 2.0**8
"""QLinearGlobalAveragePool refuses to run with a multiplier below the first, or not below the second."""


class LowerAveragePoolPass(ir.passes.InPlacePass):
    """Replace averages of codes.

    ``DQ(x) -> GlobalAveragePool -> Q`` becomes QLinearGlobalAveragePool, which multiplies the sum by
    ``float32(s_x / float32(s_y * count))``.

    ``DQ(x) -> AveragePool -> Q`` becomes a depthwise QLinearConv whose weight codes are 1 and whose weight
    scale is ``float32(1 / count)``: exact, while QLinearAveragePool is not.

    Where the divisor varies, since the padding does not count or the size is rounded up, the sum is a float32
    Conv of whole numbers, exact below 2**24, times a map of multipliers, rounded and clamped step by step.

    A GlobalAveragePool is left alone if the multiplier is out of the range that QLinearGlobalAveragePool
    computes in. An AveragePool is left alone if it pads automatically, the number of channels is unknown, or
    its divisor varies and a size is unknown.
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
    if node.op_type == "GlobalAveragePool":
        if not _in_range(x, end):
            return refuse(node, "the scales of its input and result are too far apart")
        pool = ir.node(
            "QLinearGlobalAveragePool",
            [x.value, *params(graph, x), *params(graph, end)],
            {"channels_last": 0},
            domain=CONTRIB,
            name=node.name,
        )
        return replace(node, end, [pool])
    return _lower_windows(graph, node, x, end)


def _lower_windows(graph: ir.Graph, node: ir.Node, x: Codes, end: Requantization) -> bool:
    attributes, shape = node.attributes, tuple(x.value.shape or ())
    window = list(attributes.get_ints("kernel_shape", []))
    rank, sizes = len(window), [size for size in shape[2:] if isinstance(size, int)]
    if len(shape) < 3 or not isinstance(shape[1], int):
        return refuse(node, "its number of channels is not known")
    if attributes.get_string("auto_pad", "NOTSET") not in ("NOTSET", "VALID"):
        return refuse(node, "it pads automatically")
    channels: int = shape[1]
    pads = list(attributes.get_ints("pads", [0] * 2 * rank))
    strides = list(attributes.get_ints("strides", [1] * rank))
    dilations = list(attributes.get_ints("dilations", [1] * rank))
    ceil_mode = bool(attributes.get_int("ceil_mode", 0))
    count_padding = bool(attributes.get_int("count_include_pad", 0))
    counts, beyond = np.array(math.prod(window)), [0] * rank
    if ceil_mode or (any(pads) and not count_padding):
        if len(sizes) < rank:
            return refuse(node, "its divisor varies, and its sizes are not known")
        counts, beyond = divisors(
            sizes, window, strides, pads, dilations, ceil_mode=ceil_mode, count_padding=count_padding
        )
    pads = [*pads[:rank], *(pad + more for pad, more in zip(pads[rank:], beyond, strict=True))]
    spatial = {"kernel_shape": window, "strides": strides, "dilations": dilations, "pads": pads}
    ones = (channels, 1, *window)
    if (counts != counts.flat[0]).any():
        return replace(node, end, _written_out(graph, node, x, end, ones, counts, spatial), clamped=True)
    count = int(counts.flat[0])
    weight = constant(graph, "ones." + "x".join(map(str, ones)), np.ones(ones, np.int8))
    scale = constant(graph, f"mean{count}.{channels}", np.full(channels, np.float32(1 / count), np.float32))
    inputs = [x.value, *params(graph, x), weight, scale, zero_point(graph, np.int8(0)), *params(graph, end)]
    conv = ir.node("QLinearConv", inputs, {**spatial, "group": channels}, name=node.name)
    return replace(node, end, [conv])


def _written_out(
    graph: ir.Graph, node: ir.Node, x: Codes, end: Requantization, ones: tuple[int, ...],
    counts: NDArray[np.int64], spatial: dict[str, list[int]],
) -> list[ir.Node]:  # fmt: skip
    """``clamp(rint(sum * factor) + z_y)`` step by step: the sum is a whole number that float32 holds."""
    steps = Steps(graph, node)

    def real(op_type: str, label: str, *inputs: ir.Value, like: ir.Value, **attributes: Any) -> ir.Value:
        return steps.add(op_type, inputs, ir.DataType.FLOAT, label=label, like=like, **attributes)

    def number(value: float) -> ir.Value:
        return steps.number(f"float{value:g}", np.float32(value))

    value, y = steps.cast(x.value, ir.DataType.FLOAT, label="float"), node.outputs[0]
    if x.zero_point:
        value = real("Sub", "centered", value, number(x.zero_point), like=x.value)
    weight = steps.number("float_ones." + "x".join(map(str, ones)), np.ones(ones, np.float32))
    value = real("Conv", "sum", value, weight, like=y, group=ones[0], **spatial)
    factors = arithmetic.multiplier(x.scale, (1 / counts).astype(np.float32), end.scale)
    factor = steps.number(f"{y.name}.factors", factors[None, None])
    value = real("Round", "round", real("Mul", "scaled", value, factor, like=y), like=y)
    if end.zero_point:
        value = real("Add", "shifted", value, number(end.zero_point), like=y)
    value = real("Clip", "clamped", value, number(end.low), number(end.high), like=y)
    steps.cast(value, ir.DataType.UINT8, label="codes")
    return steps.nodes


def _in_range(x: Codes, end: Requantization) -> bool:
    spatial = tuple(x.value.shape)[2:] if x.value.shape is not None else ()
    known = [size for size in spatial if isinstance(size, int)]
    counts = [math.prod(known)] if spatial and len(known) == len(spatial) else [1, 2**24]
    factors = [float(arithmetic.mean_multiplier(x.scale, end.scale, count)) for count in counts]
    return min(factors) >= _LEAST_FACTOR and max(factors) < _MOST_FACTOR
