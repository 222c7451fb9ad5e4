"""Operators of integer graphs for ``reference.py``: from node and arrays to ``kernels.py``."""

from __future__ import annotations

__all__ = ["OPERATORS"]

import functools
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from mpqtool.passes import arithmetic
from mpqtool.passes.lower.build import CONTRIB
from mpqtool.passes.lower.pack import arrange, codes_of, unpack_fields
from mpqtool.passes.lower.unpack import ARRANGE, FIELDS, UNPACK
from mpqtool.passes.metadata import DOMAIN
from mpqtool.passes.plan import Grid

from . import kernels, move_ops, product_ops, table_ops
from .kernels import one

Array = NDArray[Any]
NodeRun = Callable[[ir.Node, list[Any]], Any]


def _signed(weight: Array, zero: Array | None) -> Array:
    """Weight codes without their zero point."""
    offset = 0 if zero is None else zero.astype(np.int16).reshape(-1, *[1] * (weight.ndim - 1))
    return weight.astype(np.int16) - offset


def _spatial(node: ir.Node, x: Array, window: list[int]) -> dict[str, Any]:
    """Strides, dilations and pads of a windowed operator, with automatic padding worked out."""
    rank, attributes = len(window), node.attributes
    strides = list(attributes.get_ints("strides", [1] * rank))
    dilations = list(attributes.get_ints("dilations", [1] * rank))
    pads = list(attributes.get_ints("pads", [0] * 2 * rank))
    auto = attributes.get_string("auto_pad", "NOTSET")
    if auto.startswith("SAME"):
        begin, end = [], []
        for size, k, s, d in zip(x.shape[2:], window, strides, dilations, strict=True):
            total = max((-(-size // s) - 1) * s + (k - 1) * d + 1 - size, 0)
            begin.append(total // 2 if auto == "SAME_UPPER" else total - total // 2)
            end.append(total - begin[-1])
        pads = begin + end
    return {"strides": strides, "dilations": dilations, "pads": pads}


def _qlinear_conv(node: ir.Node, inputs: list[Any]) -> Array:
    x, x_scale, x_zero, weight, w_scale, w_zero, y_scale, y_zero, *bias = inputs
    scales = np.broadcast_to(w_scale.reshape(-1), len(weight))
    return kernels.convolve(
        x,
        int(one(x_zero)),
        _signed(weight, w_zero),
        bias[0] if bias else None,
        arithmetic.multiplier(one(x_scale), scales, one(y_scale)),
        int(one(y_zero)),
        group=node.attributes.get_int("group", 1),
        **_spatial(node, x, list(weight.shape[2:])),
    )


def _conv(node: ir.Node, inputs: list[Any]) -> Any:
    """In float32: of integers, as lowering writes them, the sums are exact."""
    x, weight, bias = (*inputs, None)[:3]
    if x.dtype != np.float32:
        return NotImplemented
    window = _spatial(node, x, list(weight.shape[2:]))
    acc: Array = kernels.correlate(
        x, 0, weight, np.float32, group=node.attributes.get_int("group", 1), **window
    )
    return acc if bias is None else acc + bias.reshape(-1, *[1] * (weight.ndim - 2))


def _conv_integer(node: ir.Node, inputs: list[Any]) -> Array:
    x, weight, x_zero, w_zero = (*inputs, None, None)[:4]
    codes, zero = _signed(weight, w_zero), int(one(x_zero))
    window = _spatial(node, x, list(weight.shape[2:]))
    group = node.attributes.get_int("group", 1)
    return kernels.correlate(x, zero, codes, np.float64, group=group, **window).astype(np.int32)


def _qgemm(node: ir.Node, inputs: list[Any]) -> Array:
    x, x_scale, x_zero, weight, w_scale, w_zero, bias, *y = (*inputs, None) if len(inputs) == 6 else inputs
    acc = kernels.matmul(x, int(one(x_zero)), _signed(weight, w_zero), bias)
    if not y:
        real: Array = acc.astype(np.float32) * (np.float32(one(x_scale)) * w_scale)
        return real
    factor = arithmetic.multiplier(one(x_scale), w_scale, one(y[0]))
    return arithmetic.requantize(acc, factor, int(one(y[1])), 0, 255)


def _qlinear_add(node: ir.Node, inputs: list[Any]) -> Array:
    a, a_scale, a_zero, b, b_scale, b_zero, y_scale, y_zero = inputs
    ratios = one(a_scale) / one(y_scale), one(b_scale) / one(y_scale)
    return arithmetic.add_codes(
        a, ratios[0], int(one(a_zero)), b, ratios[1], int(one(b_zero)), int(one(y_zero)), 0, 255
    )


def _average(node: ir.Node, inputs: list[Any]) -> Array:
    x, x_scale, x_zero, y_scale, y_zero = inputs
    return kernels.average(x, one(x_scale), int(one(x_zero)), one(y_scale), int(one(y_zero)))


def _concat(node: ir.Node, inputs: list[Any]) -> Array:
    y_scale, y_zero, *rest = inputs
    parts = [(rest[i], one(rest[i + 1]), int(one(rest[i + 2]))) for i in range(0, len(rest), 3)]
    return kernels.concat(parts, one(y_scale), int(one(y_zero)), node.attributes.get_int("axis", 1))


def _max_pool(node: ir.Node, inputs: list[Any]) -> Any:
    if len(node.outputs) > 1:  # indices too
        return NotImplemented
    window = list(node.attributes.get_ints("kernel_shape", []))
    ceil_mode = bool(node.attributes.get_int("ceil_mode", 0))
    return kernels.max_pool(inputs[0], window, ceil_mode=ceil_mode, **_spatial(node, inputs[0], window))


def _quantize(node: ir.Node, inputs: list[Any]) -> Any:
    x, scale, zero = (*inputs, None)[:3]
    if zero is None or zero.dtype != np.uint8 or scale.size != 1:  # ends an island; see ``Reference``
        return NotImplemented
    return arithmetic.quantize(x, one(scale), int(one(zero)), 0, 255)


def _dequantize(node: ir.Node, inputs: list[Any]) -> Array:
    codes, scale, zero = (*inputs, None)[:3]
    if scale.size == 1:
        return arithmetic.dequantize(codes, one(scale), one(zero))
    axis = node.attributes.get_int("axis", 1)
    return arithmetic.dequantize(codes, scale, 0 if zero is None else zero, axis=axis)


def _clip(node: ir.Node, inputs: list[Any]) -> Array:
    x, low, high = (*inputs, None, None)[:3]
    clipped: Array = np.clip(x, None if low is None else one(low), None if high is None else one(high))
    return clipped


def _cast(node: ir.Node, inputs: list[Any]) -> Array:
    cast: Array = inputs[0].astype(ir.DataType(node.attributes.get_int("to", 1)).numpy())
    return cast


def _constant_of_shape(node: ir.Node, inputs: list[Any]) -> Array:
    value = node.attributes.get("value")
    return np.full(inputs[0], np.float32(0) if value is None else value.as_tensor().numpy().reshape(-1)[0])


def _unpack(grid: Grid) -> NodeRun:
    def run(node: ir.Node, inputs: list[Any]) -> Array:
        data, width, count, shift = inputs
        codes = codes_of(unpack_fields(data, int(one(width)), int(one(count))), int(one(width)), grid)
        shifted: Array = codes << one(shift).astype(np.int8)
        return shifted

    return run


_OWN: dict[tuple[str, str], NodeRun] = {
    ("", "QuantizeLinear"): _quantize,
    ("", "DequantizeLinear"): _dequantize,
    ("", "QLinearConv"): _qlinear_conv,
    ("", "Conv"): _conv,
    ("", "ConvInteger"): _conv_integer,
    (CONTRIB, "QGemm"): _qgemm,
    (CONTRIB, "QLinearAdd"): _qlinear_add,
    (CONTRIB, "QLinearGlobalAveragePool"): _average,
    (CONTRIB, "QLinearConcat"): _concat,
    ("", "Concat"): lambda node, inputs: np.concatenate(inputs, node.attributes.get_int("axis", 1)),
    ("", "MaxPool"): _max_pool,
    ("", "Clip"): _clip,
    ("", "Cast"): _cast,
    ("", "Add"): lambda node, inputs: inputs[0] + inputs[1],
    ("", "Sub"): lambda node, inputs: inputs[0] - inputs[1],
    ("", "Mul"): lambda node, inputs: inputs[0] * inputs[1],
    ("", "Div"): lambda node, inputs: inputs[0] / inputs[1],
    ("", "Max"): lambda node, inputs: functools.reduce(np.maximum, inputs),
    ("", "Round"): lambda node, inputs: np.rint(inputs[0]),
    ("", "BitwiseXor"): lambda node, inputs: inputs[0] ^ inputs[1],
    ("", "ConstantOfShape"): _constant_of_shape,
    ("", "Identity"): lambda node, inputs: inputs[0],
    ("", "Flatten"): lambda node, inputs: inputs[0].reshape(
        int(np.prod(inputs[0].shape[: node.attributes.get_int("axis", 1)])), -1
    ),
    **{(DOMAIN, name): _unpack(grid) for grid, name in UNPACK.items()},
    (DOMAIN, FIELDS): lambda node, inputs: unpack_fields(inputs[0], int(one(inputs[1])), int(one(inputs[2]))),
    (DOMAIN, ARRANGE): lambda node, inputs: arrange(*inputs),
}


def _merged(*tables: Mapping[tuple[str, str], NodeRun]) -> dict[tuple[str, str], NodeRun]:
    """All operators of these tables.

    Raises:
        ValueError: Two tables have the same operator: one of them would never run.
    """
    merged: dict[tuple[str, str], NodeRun] = {}
    for table in tables:
        if twice := merged.keys() & table.keys():
            raise ValueError(f"Operators of two tables: {sorted(twice)}. Remove one of each.")
        merged |= table
    return merged


OPERATORS = _merged(_OWN, move_ops.OPERATORS, product_ops.OPERATORS, table_ops.OPERATORS)
"""(domain, operator) -> function of the node and its input arrays, giving the first output or a tuple of all.

NotImplemented stands for: not in this form of the operator."""
