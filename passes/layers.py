"""Layers of the folded normal form, Conv and Gemm with ``transB=1``: their weights and biases."""

from __future__ import annotations

__all__ = [
    "bias_of",
    "by_channel",
    "channels",
    "groups",
    "is_layer",
    "is_padded",
    "rescale",
    "set_bias",
    "unchangeable",
    "weight_of",
]

from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from .values import (
    add_initializer,
    array,
    int_attribute,
    is_canonical_gemm,
    is_op,
    only_user,
    own,
    set_array,
    text_attribute,
)

_BIAS = 2
"""Which input of a layer."""


def is_layer(node: ir.Node | None) -> bool:
    """Whether the node is a Conv, or a Gemm that computes ``x @ w.T + bias``."""
    return is_op(node, "Conv") or is_canonical_gemm(node)


def is_padded(node: ir.Node) -> bool:
    """Whether a layer or pool pads what it takes."""
    pads = node.attributes.get_ints("pads", [])
    return any(pads) or text_attribute(node, "auto_pad", "NOTSET").startswith("SAME")


def groups(layer: ir.Node) -> int:
    """In how many parts a layer takes its channels."""
    return int_attribute(layer, "group", 1)


def channels(layer: ir.Node) -> int:
    """How many entries axis 1 of what a layer takes has."""
    return int(weight_of(layer).shape[1]) * groups(layer)


def unchangeable(layer: ir.Node) -> str | None:
    """Why the weight and bias of a layer cannot be edited; None if they can."""
    weight, bias = layer.inputs[1], _bias(layer)
    numbers = array(weight)
    if weight is None or numbers is None or numbers.dtype != np.float32:
        return "its weight is not constant"
    if only_user(weight) is not layer:
        return "other nodes use its weight"
    if bias is not None and array(bias) is None:
        return "its bias is not constant"
    return None


def weight_of(layer: ir.Node) -> NDArray[np.float32]:
    """The weight of a layer that is not ``unchangeable``, ``(kernels, channels / groups, ...)``."""
    numbers = array(layer.inputs[1])
    assert numbers is not None  # callers have asked
    return numbers


def by_channel(layer: ir.Node, blocks: int) -> NDArray[np.float32]:
    """The weight as ``(groups, kernels / groups, blocks / groups, weights)``.

    Args:
        layer: Not ``unchangeable``.
        blocks: So many blocks of equal size make up axis 1 of what the layer takes, one for each channel
            of the layer before; more than one element each behind a Flatten.
    """
    numbers, parts = weight_of(layer), groups(layer)
    return numbers.reshape(parts, len(numbers) // parts, blocks // parts, -1)


def rescale(
    layer: ir.Node, *, rows: NDArray[np.float64] | None = None, columns: NDArray[np.float64] | None = None
) -> None:
    """Change a layer to give ``rows`` times what it did, for an input divided by ``columns``.

    The weights are rounded once, to float32.

    Args:
        layer: Not ``unchangeable``.
        rows: ``(kernels,)``; None: all 1.
        columns: ``(blocks,)``, of ``by_channel``; None: all 1.
    """
    weight, before = layer.inputs[1], weight_of(layer)
    assert weight is not None  # weight_of has looked
    columns = np.ones(channels(layer)) if columns is None else columns
    numbers = by_channel(layer, len(columns)) * columns.reshape(groups(layer), 1, -1, 1)
    if rows is not None:
        numbers = numbers * rows.reshape(groups(layer), -1, 1, 1)
        bias = bias_of(layer)
        if bias is not None:
            set_bias(layer, np.asarray(bias * rows, np.float32))
    set_array(weight, np.asarray(numbers.reshape(before.shape), np.float32))


def bias_of(layer: ir.Node) -> NDArray[np.float32] | None:
    """The bias of a layer that is not ``unchangeable``, which broadcasts to ``(kernels,)``; or None."""
    return array(_bias(layer))


def set_bias(layer: ir.Node, numbers: NDArray[Any]) -> None:
    """Give a layer this bias: in place, or as ``<weight>_bias`` if it has none or other nodes use it."""
    graph, weight, bias = layer.graph, layer.inputs[1], _bias(layer)
    assert isinstance(graph, ir.Graph)  # callers iterate over one
    assert weight is not None
    name = f"{weight.name}_bias"
    layer.resize_inputs(3)
    layer.replace_input_with(
        _BIAS,
        add_initializer(graph, name, numbers)
        if bias is None
        else own(graph, bias, numbers, users=(layer,), copy=name),
    )


def _bias(layer: ir.Node) -> ir.Value | None:
    return layer.inputs[_BIAS] if len(layer.inputs) > _BIAS else None
