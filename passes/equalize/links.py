"""Which layers follow each other with nothing between that minds a factor of a channel."""

from __future__ import annotations

__all__ = ["Link", "ceiling", "find_links", "follow", "log_left_alone"]

import logging
import math
from typing import NamedTuple

import numpy as np
import onnx_ir as ir

from ..layers import groups, is_layer, unchangeable, weight_of
from ..placement import factor_of
from ..values import array, int_attribute, is_op, only_user

logger = logging.getLogger(__name__)

_ELEMENTWISE = ("Identity", "LeakyRelu", "PRelu", "Relu")
_POOLS = ("AveragePool", "GlobalAveragePool", "GlobalMaxPool", "MaxPool")
_UNBOUNDED = float(np.finfo(np.float32).max)


class Link(NamedTuple):
    """A layer whose result goes into another layer alone.

    Every node of ``path`` is positively homogeneous in each channel: ``f(a * x) = a * f(x)`` for ``a > 0``;
    those of ``clips`` only while they do not clip from above.

    Attributes:
        source: The layer before.
        target: The layer behind.
        path: What is between them, in order.
        clips: The nodes of ``path`` with a ceiling.
        channels: Kernels of the source. What goes into the target has so many blocks of equal size on
            axis 1, more than one element each only behind a Flatten or Reshape.
    """

    source: ir.Node
    target: ir.Node
    path: tuple[ir.Node, ...]
    clips: tuple[ir.Node, ...]
    channels: int


def find_links(graph: ir.Graph) -> tuple[list[Link], dict[str, list[str]]]:
    """All links of a graph in its order; and by reason, the outputs of the layers that have none."""
    links: list[Link] = []
    alone: dict[str, list[str]] = {}
    for node in graph:
        if is_layer(node):
            found = follow(node)
            if isinstance(found, Link):
                links.append(found)
            else:
                alone.setdefault(found, []).append(str(node.outputs[0].name))
    return links, alone


def follow(layer: ir.Node) -> Link | str:
    """The link from a layer to the next one; or why there is none."""
    reason = unchangeable(layer)
    if reason is not None:
        return reason
    channels, value, path = len(weight_of(layer)), layer.outputs[0], list[ir.Node]()
    while True:
        node = only_user(value)
        if node is None:
            return "the result is a graph output, or other nodes use it"
        if is_layer(node) and node.inputs[0] is value:
            break
        if not _is_homogeneous(node, value, channels):
            return f"{node.op_type} follows"
        path.append(node)
        value = node.outputs[0]
    reason = unchangeable(node)
    if reason is not None:
        return f"of the layer behind, {reason}"
    if channels % groups(node):
        return "the groups of the layer behind divide channels"
    clips = tuple(clip for clip in path if is_op(clip, "Clip") and ceiling(clip) != math.inf)
    return Link(layer, node, tuple(path), clips, channels)


def log_left_alone(alone: dict[str, list[str]]) -> None:
    """Say which layers were left alone, one line for each reason."""
    for reason, names in alone.items():
        logger.info("Left %d layers alone, as %s: %s", len(names), reason, ", ".join(names))


def ceiling(clip: ir.Node) -> float | None:
    """Where a Clip cuts from above, inf if it does not; None if it cuts elsewhere than at 0 from below."""
    bounds = [_UNBOUNDED, _UNBOUNDED]
    for index, value in enumerate(clip.inputs[1:3]):
        if value is not None:
            numbers = array(value)
            if numbers is None or numbers.size != 1:
                return None
            bounds[index] = (-1 if index == 0 else 1) * float(numbers.item())
    lowest, highest = -bounds[0], bounds[1]
    if lowest != 0 and lowest > -_UNBOUNDED:
        return None
    if not highest > 0:
        return None
    return highest if highest < _UNBOUNDED else math.inf


def _is_homogeneous(node: ir.Node, value: ir.Value, channels: int) -> bool:
    """Whether a node that uses the value keeps its channels apart, and their factors."""
    if factor_of(node) is not None:
        return True
    if node.inputs[0] is not value or len(node.outputs) > 1:
        return False
    if is_op(node, *_ELEMENTWISE, *_POOLS):
        return True
    if is_op(node, "Clip"):
        return ceiling(node) is not None
    if is_op(node, "Flatten"):  # of [n, channels, ...] to [n, channels * ...], each channel a block
        return int_attribute(node, "axis", 1) == 1
    return is_op(node, "Reshape") and _keeps_blocks(node, channels)


def _keeps_blocks(reshape: ir.Node, channels: int) -> bool:
    """Whether a Reshape leaves the batch as it is, and makes axis 1 of blocks, one for each channel.

    The elements of a channel are one run of those of a sample, before and after. If axis 1 has a multiple
    of ``channels`` entries, each run fills a whole number of them.
    """
    x, out, target = reshape.inputs[0], reshape.outputs[0], array(reshape.inputs[1])
    if x is None or x.shape is None or out.shape is None or target is None or len(out.shape) < 2:
        return False
    blocks = out.shape[1]
    if not isinstance(blocks, int) or blocks == 0 or blocks % channels:
        return False
    if target[0] == 0 and not int_attribute(reshape, "allowzero", 0):
        return True
    if isinstance(x.shape[0], int) and x.shape[0] == out.shape[0]:
        return True
    sizes = [[dim for dim in shape[1:] if isinstance(dim, int)] for shape in (x.shape, out.shape)]
    known = len(sizes[0]) == len(x.shape) - 1 and len(sizes[1]) == len(out.shape) - 1
    return known and math.prod(sizes[0]) == math.prod(sizes[1]) > 0
