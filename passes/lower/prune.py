"""Remove kernels that compute a constant, and what the next layers multiply with it."""

from __future__ import annotations

__all__ = ["PruneKernelsPass"]

import logging

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from .. import metadata
from ..constants import constant
from ..values import add_initializer, array, own
from .channels import Channels, Layer, read
from .region import Region, follow

logger = logging.getLogger(__name__)

_LARGEST = np.iinfo(np.int32)
STEP = 8
"""ONNX Runtime computes 16, 8 or 4 kernels at a time, and the rest slowly. Two layers at 28x28 with 16
channels take 0.94 of the time with 8 kernels between them, and 1.5 times as long with 11; at 14x14 with 32
channels, 20 kernels take as long as 24."""


class PruneKernelsPass(ir.passes.InPlacePass):
    """Remove each kernel whose channel has one code ``c`` wherever it is summed over.

    Kernels of 0 bits do so from the start, ``c = clamp(rint(float32(bias) * M) + z_y)``, as do other kernels
    of zeros, and those of a depthwise convolution make constants of any channel. Between the layer and the
    ones that sum over it there may be Clip, MaxPool, averages, functions of one number, Flatten, Concat and
    depthwise convolutions, whose kernels go too. What the channel adds to an accumulator goes into the bias:

        bias[o] += (c - z_x) * sum(w[o, channel])

    Exact: all are integers. Nodes whose result has fewer channels get the note ``mpqtool.kept``.

    A kernel stays if its channel is used in any other way (a sum, a product, a graph output), where a
    layer pads it and ``c`` is not real 0, which is what is padded, and where the bias would leave int32. So
    many stay that their number is a multiple of ``step``, or half of it: fewer would not be faster.

    Args:
        step: Of the number of kernels that are left.
    """

    def __init__(self, *, step: int = STEP) -> None:
        super().__init__()
        self.step = step

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        removed = sum(_prune(model.graph, node, self.step) for node in list(model.graph))
        if removed:
            logger.info("Removed %d kernels that compute a constant", removed)
        return ir.passes.PassResult(model, modified=bool(removed))


def _prune(graph: ir.Graph, node: ir.Node, step: int) -> int:
    layer = read(node)
    region = follow(layer) if layer is not None else None
    if layer is None or region is None:
        return 0
    gone = _removable(region)
    left = max(int((~gone).sum()), 1)
    wanted = step // 2 if left <= step // 2 else -(-left // step) * step
    spared = max(0, wanted - int((~gone).sum()))
    gone[np.flatnonzero(gone)[:spared]] = False
    if not gone.any():
        return 0
    first = region.values[node.outputs[0]]
    _select_kernels(graph, layer, _left(first, gone, len(layer.weight)))
    for depthwise in region.depthwise:
        channels = region.values[depthwise.node.outputs[0]]
        _select_kernels(graph, depthwise, _left(channels, gone, len(depthwise.weight)))
    for sink, channels in region.sinks:
        _fold(graph, sink, channels, gone)
    for value, channels in region.values.items():
        _note(value, channels, gone)
    for reshape in region.shaped:
        _reshape(graph, reshape)
    return int(gone.sum())


def _removable(region: Region) -> NDArray[np.bool_]:
    """Which channels every sink can do without."""
    fits = np.ones(len(next(iter(region.values.values())).codes), bool)
    for sink, channels in region.sinks:
        centered = channels.codes - sink.x_zero
        fits &= channels.known & ((centered == 0) | (not sink.is_padded))
    for sink, channels in region.sinks:
        bias = sink.bias + _added(sink, channels, fits)
        if bias.min() < _LARGEST.min or bias.max() > _LARGEST.max:
            return np.zeros_like(fits)
    return fits


def _added(sink: Layer, channels: Channels, chosen: NDArray[np.bool_]) -> NDArray[np.int64]:
    """What these channels add to each accumulator."""
    taps = sink.weight.reshape(*sink.weight.shape[:2], -1).sum(axis=2)[:, channels.index].sum(axis=2)
    added: NDArray[np.int64] = taps @ np.where(chosen, channels.codes - sink.x_zero, 0)
    return added


def _left(channels: Channels, gone: NDArray[np.bool_], size: int) -> NDArray[np.intp]:
    """The entries of axis 1 that stay."""
    stays = np.ones(size, bool)
    stays[channels.index[gone]] = False
    return np.flatnonzero(stays)


def _select_kernels(graph: ir.Graph, layer: Layer, kept: NDArray[np.intp]) -> None:
    node, kernels = layer.node, len(layer.weight)
    for index in (3, 4, 5, layer.bias_at):
        held = array(node.inputs[index]) if index < len(node.inputs) else None
        if held is not None and held.ndim and len(held) == kernels:
            _replace(graph, node, index, held[kept])
    if layer.is_depthwise:
        node.attributes["group"] = ir.AttrInt64("group", len(kept))
    noted = node.metadata_props.get(metadata.WEIGHT_BITS)
    if noted is not None:
        _remember_size(layer)
        node.metadata_props[metadata.WEIGHT_BITS] = metadata.digits(
            metadata.from_digits(noted)[o] for o in kept
        )


def _fold(graph: ir.Graph, sink: Layer, channels: Channels, gone: NDArray[np.bool_]) -> None:
    node, held = sink.node, array(sink.node.inputs[3])
    assert held is not None  # or it would be no layer
    added = _added(sink, channels, gone)
    if added.any():
        bias = (sink.bias + added).astype(np.int32)
        if sink.bias_at >= len(node.inputs) or node.inputs[sink.bias_at] is None:
            new = add_initializer(graph, f"{node.outputs[0].name}.bias", bias)
            node.resize_inputs(max(len(node.inputs), sink.bias_at + 1))
            node.replace_input_with(sink.bias_at, new)
        else:
            _replace(graph, node, sink.bias_at, bias)
    _remember_size(sink)
    _replace(graph, node, 3, held[:, _left(channels, gone, held.shape[1])])


def _reshape(graph: ir.Graph, node: ir.Node) -> None:
    """Let a Reshape give the shape that its result has by now."""
    shape = node.outputs[0].shape
    assert shape is not None  # the channels of what is followed are known
    sizes = [size if isinstance(size, int) else -1 for size in shape]
    node.replace_input_with(1, constant(graph, "shape." + "x".join(map(str, sizes)), np.array(sizes)))


def _replace(graph: ir.Graph, node: ir.Node, index: int, numbers: NDArray[np.generic]) -> None:
    old = node.inputs[index]
    assert old is not None  # the caller has read it
    numbers = np.ascontiguousarray(numbers)
    node.replace_input_with(index, own(graph, old, numbers, users=[node], copy=f"{old.name}.kept"))


def _remember_size(layer: Layer) -> None:
    node = layer.node
    if metadata.WEIGHT in node.metadata_props:
        node.metadata_props.setdefault(metadata.WEIGHTS, str(layer.weight.size))


def _note(value: ir.Value, channels: Channels, gone: NDArray[np.bool_]) -> None:
    """Write down which channels of the original value there are."""
    node = value.producer()
    assert node is not None  # a layer, or what is behind it
    assert value.shape is not None  # lowering has inferred shapes
    size = value.shape[1]
    assert isinstance(size, int)
    noted = node.metadata_props.get(metadata.KEPT)
    before = np.arange(size) if noted is None else np.array(metadata.from_ranges(noted))
    kept = before[_left(channels, gone, size)]
    node.metadata_props[metadata.KEPT] = metadata.ranges(kept.tolist())
    value.shape = ir.Shape([value.shape[0], len(kept), *value.shape[2:]])
