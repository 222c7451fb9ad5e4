"""Integer layers, and what operators make of their output channels."""

from __future__ import annotations

__all__ = ["UNKNOWN", "Channels", "Layer", "channel_count", "looked_up", "read", "through"]

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from .. import arithmetic, cost, functions
from ..constants import scalar_of
from ..layers import is_padded
from ..values import array, int_attribute, is_op, only_user
from .build import CONTRIB

Int = NDArray[np.int64]
UNKNOWN = -1
"""Stands for the code of a channel that has several."""
_BIAS = {("", "QLinearConv"): 8, (CONTRIB, "QGemm"): 6}


@dataclasses.dataclass(frozen=True)
class Layer:
    """What a QLinearConv or QGemm computes with; all of it is constant.

    Attributes:
        node: The operator.
        weight: ``(kernels, inputs / group, ...)``, without the zero point.
        bias: ``(kernels,)``.
        bias_at: Which input of the node the bias is.
        x_zero: Zero point of the input.
        multiplier: ``(kernels,)``; None if the result is the accumulator.
        y_zero: Zero point of the result.
    """

    node: ir.Node
    weight: Int
    bias: Int
    bias_at: int
    x_zero: int
    multiplier: NDArray[np.float32] | None
    y_zero: int

    @property
    def group(self) -> int:
        return int_attribute(self.node, "group", 1)

    @property
    def is_depthwise(self) -> bool:
        """Whether there is one kernel for each channel."""
        return self.weight.shape[1] == 1 and self.group == len(self.weight) > 1

    @property
    def is_padded(self) -> bool:
        return is_padded(self.node)

    def codes(self, acc: Int) -> Int:
        """The results of accumulators ``(kernels,)``."""
        assert self.multiplier is not None
        return arithmetic.requantize(acc, self.multiplier, self.y_zero, 0, 255).astype(np.int64)


@dataclasses.dataclass(frozen=True)
class Channels:
    """Where the channels of a layer are in a value, along axis 1.

    Attributes:
        index: ``(channels, entries)``: one entry each, or as many as a channel has where it is flat.
        codes: ``(channels,)``: the code that a channel has at every place, whatever the input, or -1.
    """

    index: Int
    codes: Int

    @property
    def known(self) -> NDArray[np.bool_]:
        """Which channels have one code."""
        found: NDArray[np.bool_] = self.codes != UNKNOWN
        return found

    def with_codes(self, codes: NDArray[np.generic] | int) -> Channels:
        """Other codes, where there is one."""
        return Channels(self.index, np.where(self.known, np.asarray(codes, np.int64), UNKNOWN))


def read(node: ir.Node) -> Layer | None:
    """The layer that a node is; None if it is none, or something of it is computed."""
    bias_at = _BIAS.get((node.domain, node.op_type))
    if bias_at is None or (bias_at == 6 and not int_attribute(node, "transB", 0)):
        return None
    inputs = [*node.inputs, *[None] * (9 - len(node.inputs))]
    y_scale, y_zero = inputs[7:9] if bias_at == 6 else inputs[6:8]
    codes, w_scale, w_zero = (array(value) for value in inputs[3:6])
    x_scale, x_zero = scalar_of(inputs[1]), scalar_of(inputs[2])
    if codes is None or w_scale is None or w_zero is None or x_scale is None or x_zero is None:
        return None
    held = inputs[bias_at]
    bias = np.zeros(len(codes), np.int64) if held is None else array(held)
    multiplier, zero = None, 0
    if y_scale is not None:
        scale, point = scalar_of(y_scale), scalar_of(y_zero)
        if scale is None or point is None:
            return None
        factors = arithmetic.multiplier(x_scale, w_scale.reshape(-1), scale)
        multiplier, zero = np.broadcast_to(factors, (len(codes),)), int(point)
    if bias is None:
        return None
    weight = codes - w_zero.astype(np.int64).reshape(-1, *[1] * (codes.ndim - 1))  # one, or one per kernel
    return Layer(node, weight, bias.astype(np.int64), bias_at, int(x_zero), multiplier, zero)


def through(node: ir.Node, layer: Layer | None, value: ir.Value, channels: Channels) -> Channels | None:
    """The channels behind an operator that works on each by itself; None if it is none."""
    if layer is not None:
        return _depthwise(layer, channels)
    if is_op(node, "Cast", "Identity", "MaxPool"):  # what MaxPool pads with is never the largest
        return channels if len(node.outputs) == 1 else None
    if is_op(node, "Clip"):
        low, high = (scalar_of(bound) for bound in node.inputs[1:3])
        return (
            None if low is None or high is None else channels.with_codes(np.clip(channels.codes, low, high))
        )
    if is_op(node, "Flatten"):
        return _flat(node, value, channels)
    if node.domain == CONTRIB and node.op_type == "QLinearGlobalAveragePool":
        return _mean(node, value, channels)
    if node.domain == CONTRIB and node.op_type == "QLinearConcat":
        return _joined(node, value, channels)
    if node.domain == CONTRIB and node.op_type in ("QLinearSigmoid", "QLinearLeakyRelu"):
        return _function(node, channels)
    return None


def looked_up(node: ir.Node, value: ir.Value) -> tuple[Int, ir.Node] | None:
    """The table that codes go through, and the Reshape behind it that gives them their shape again."""
    shape, rank = array(node.inputs[1]) if len(node.inputs) > 1 else None, len(value.shape or ())
    if not is_op(node, "Reshape") or shape is None or shape.tolist() != [-1] or rank < 2:
        return None
    table: Int | None = None
    user = only_user(node.outputs[0])
    while user is not None and not is_op(user, "Reshape"):
        if is_op(user, "GatherElements") and table is None:
            numbers = array(user.inputs[0])
            table = None if numbers is None or numbers.shape != (256,) else numbers.astype(np.int64)
        elif not is_op(user, "Cast"):
            return None
        user = only_user(user.outputs[0])
    if user is None or table is None or array(user.inputs[1]) is None:
        return None
    return None if user.outputs[0].shape != value.shape else (table, user)


def _function(node: ir.Node, channels: Channels) -> Channels | None:
    params = _scalars(node.inputs[1:5])
    if params is None:
        return None
    x_scale, x_zero, y_scale, y_zero = params
    attributes = {name: attribute.value for name, attribute in node.attributes.items()}
    reals = functions.outputs(node.op_type.removeprefix("QLinear"), float(x_scale), int(x_zero), **attributes)
    table = arithmetic.quantize(reals, y_scale, int(y_zero), 0, 255)
    return channels.with_codes(table[channels.codes])


def _depthwise(layer: Layer, channels: Channels) -> Channels | None:
    order = channels.index[:, 0]
    if not layer.is_depthwise or layer.multiplier is None:
        return None
    taps = layer.weight.reshape(len(layer.weight), -1)[order]
    centered = np.where(channels.known, channels.codes - layer.x_zero, 0)
    acc = layer.bias.copy()
    acc[order] += taps.sum(axis=1) * centered
    known = channels.known & ((centered == 0) | (not layer.is_padded)) | ~taps.any(axis=1)
    return Channels(channels.index, np.where(known, layer.codes(acc)[order], UNKNOWN))


def _flat(node: ir.Node, value: ir.Value, channels: Channels) -> Channels | None:
    entries = cost.size(value.shape, 2)
    if int_attribute(node, "axis", 1) != 1 or entries is None:
        return None
    index = channels.index[:, :, None] * entries + np.arange(entries)
    return Channels(index.reshape(len(index), -1), channels.codes)


def _mean(node: ir.Node, value: ir.Value, channels: Channels) -> Channels | None:
    params = _scalars(node.inputs[1:5])
    if params is None or int_attribute(node, "channels_last", 0):
        return None
    x_scale, x_zero, y_scale, y_zero = params
    count, centered = cost.size(value.shape, 2), channels.codes - int(x_zero)
    if count is None and (channels.known & (centered != 0)).any():
        return None
    factor = arithmetic.mean_multiplier(x_scale, y_scale, count or 1)
    return channels.with_codes(arithmetic.requantize((count or 1) * centered, factor, int(y_zero), 0, 255))


def _joined(node: ir.Node, value: ir.Value, channels: Channels) -> Channels | None:
    parts = node.inputs[2::3]
    if int_attribute(node, "axis", 1) != 1 or parts.count(value) != 1:
        return None
    place = parts.index(value)
    sizes = [channel_count(part) for part in parts[:place]]
    params = _scalars([*node.inputs[3 * place + 3 : 3 * place + 5], *node.inputs[:2]])
    if None in sizes or params is None:
        return None
    x_scale, x_zero, y_scale, y_zero = params
    codes = np.maximum(channels.codes, 0)
    scaled = channels.with_codes(
        arithmetic.rescale_codes(codes, x_scale, int(x_zero), y_scale, int(y_zero), 0, 255)
    )
    return Channels(channels.index + sum(size or 0 for size in sizes), scaled.codes)


def _scalars(values: Sequence[ir.Value | None]) -> list[Any] | None:
    """The numbers of scales and zero points; None if one is computed."""
    found = [scalar_of(value) for value in values]
    return None if any(number is None for number in found) else found


def channel_count(value: ir.Value | None) -> int | None:
    """The number of channels."""
    shape = value.shape if value is not None else None
    size = shape[1] if shape is not None and len(shape) > 1 else None
    return size if isinstance(size, int) else None
