"""Transposed convolutions as convolutions whose channels are moved to the image."""

from __future__ import annotations

__all__ = ["RewriteConvTransposePass", "refusal"]

import logging
import math
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from ..values import (
    add_initializer,
    array,
    gathered_names,
    int_attribute,
    is_activation,
    is_op,
    only_user,
    own,
    replace_value,
    stamp,
    text_attribute,
)
from .build import is_clamp, move_behind

logger = logging.getLogger(__name__)

_NO_END = 2**63 - 1


class RewriteConvTransposePass(ir.passes.InPlacePass):
    """Rewrite ConvTranspose, which no runtime computes in integers, as a Conv of stride 1 and a move.

    Before: ``y = ConvTranspose<strides=[2, 2]>(x, w, b)``, ``w[8, 3, 2, 2]``
    After:  ``t = Conv(x, w, b)  y = DepthToSpace<blocksize=2, mode="CRD">(t)``, ``w[12, 8, 1, 1]``

    An output at ``stride * u + phase`` sums the products of the inputs around ``u`` with every stride-th
    weight. So the phases are ``prod(strides)`` kernels of ``kernel / stride`` weights, one after another for
    each output channel, and DepthToSpace puts them side by side (sub-pixel convolution: Shi et al., Real-Time
    Single Image and Video Super-Resolution, CVPR 2016, section 3.2). A Slice crops what is less than a stride
    of the padding. Over one dimension, Reshape, Transpose and Reshape stand for DepthToSpace. The products
    are the same, none is with a structural zero.

    A BatchNormalization in inference mode, Relu and Clip that alone use the result come before the move, the
    parameters of the first repeated for every phase, so that they belong to the Conv. Weight, bias and these
    keep their names; ones that other nodes use too are copied.

    Left alone: a kernel size that is no multiple of its stride (some phases would have more weights than
    others), dilations, ``output_shape``, automatic padding, padding by a whole kernel, a weight or bias that
    is not constant, three dimensions, and two dimensions with different strides.
    """

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        rewritten = 0
        with gathered_names(model.graph):
            for node in model.graph:
                window = _window(node) if is_op(node, "ConvTranspose") else None
                if isinstance(window, _Window):
                    _rewrite(node, window, self)
                    rewritten += 1
        if rewritten:
            logger.info("Rewrote %d ConvTranspose nodes", rewritten)
        return ir.passes.PassResult(model, modified=bool(rewritten))


class _Window(NamedTuple):
    """What a ConvTranspose is along its spatial axes, one entry for each; ``crop`` is (begin, end)."""

    strides: list[int]
    pads: list[int]
    crop: list[tuple[int, int]]


def refusal(node: ir.Node) -> str | None:
    """Why a ConvTranspose is left alone; None if it is not."""
    window = _window(node)
    return window if isinstance(window, str) else None


def _window(node: ir.Node) -> _Window | str:
    """How the Conv pads and what is cropped of its result; or why the node is left alone."""
    weight, attributes = array(node.inputs[1]), node.attributes
    bias = node.inputs[2] if len(node.inputs) > 2 else None
    if weight is None or weight.dtype != np.float32 or (bias is not None and array(bias) is None):
        return "its weight or bias is no float32 constant"
    if not is_activation(node.inputs[0]):
        return "its input is a constant"
    if "output_shape" in attributes or text_attribute(node, "auto_pad", "NOTSET") != "NOTSET":
        return "its padding is automatic"
    rank = weight.ndim - 2
    if rank not in (1, 2):
        return f"it has {rank} spatial dimensions, allowed 1 and 2"
    strides = list(attributes.get_ints("strides", [1] * rank))
    if len(set(strides)) > 1:
        return f"its strides are {strides}, allowed are equal ones"
    if any(size != 1 for size in attributes.get_ints("dilations", [1] * rank)):
        return "it has dilations"
    pads = list(attributes.get_ints("pads", [0] * 2 * rank))
    more = list(attributes.get_ints("output_padding", [0] * rank))
    begins, ends, crop = [], [], []
    for axis, (size, stride) in enumerate(zip(weight.shape[2:], strides, strict=True)):
        begin, end = pads[axis], pads[axis + rank] - more[axis]
        if size % stride:
            return f"its kernel size {size} is no multiple of its stride {stride}"
        if max(begin, end) >= size:
            return "it is padded by a whole kernel"
        begins.append(size // stride - 1 - begin // stride)
        ends.append(size // stride - 1 - end // stride)
        crop.append((begin % stride, end % stride))
    return _Window(strides, begins + ends, crop)


def _rewrite(node: ir.Node, window: _Window, pass_: ir.passes.PassBase) -> None:
    graph, weight, group = node.graph, node.inputs[1], int_attribute(node, "group", 1)
    assert isinstance(graph, ir.Graph)  # the caller iterates over one
    assert weight is not None  # its numbers are known
    kernels = _kernels(weight, window.strides, group)
    inputs = [node.inputs[0], own(graph, weight, kernels, users=(node,), copy=f"{weight.name}_{node.name}")]
    attributes: dict[str, Any] = {"kernel_shape": kernels.shape[2:], "pads": window.pads, "group": group}
    conv = stamp(ir.node("Conv", [*inputs, *node.inputs[2:]], attributes, name=node.name), pass_)
    graph.insert_before(node, conv)
    replace_value(node.outputs[0], conv.outputs[0])
    graph.remove(node, safe=True)
    phases, layer = math.prod(window.strides), _layer(conv)
    last = layer[-1]
    shape = last.outputs[0].shape
    for part in layer:
        first = len(part.inputs) if is_clamp(part) else 2 if part is conv else 1
        for index, value in enumerate(part.inputs[first:], first):
            part.replace_input_with(index, _repeated(graph, value, phases, part))
        part.outputs[0].shape = None
    for label, move in _moves(graph, window, len(kernels) // phases, str(last.outputs[0].name)):
        move_behind(graph, last, stamp(move, pass_), label)
        last = move
    last.outputs[0].shape = shape


def _kernels(weight: ir.Value, strides: list[int], group: int) -> NDArray[np.float32]:
    """``(in, out / group, *kernel)`` as ``(out * phases, in / group, *kernel / stride)``, turned around."""
    numbers = array(weight)
    assert numbers is not None  # _window has looked
    inputs, outputs = numbers.shape[:2]
    taps = [size // stride for size, stride in zip(numbers.shape[2:], strides, strict=True)]
    split = [part for pair in zip(taps, strides, strict=True) for part in pair]
    parts = numbers.reshape(group, inputs // group, outputs, *split)
    along, phases = [*range(3, parts.ndim, 2)], [*range(4, parts.ndim, 2)]
    turned = np.flip(parts, tuple(along)).transpose(0, 2, *phases, 1, *along)
    return np.ascontiguousarray(turned.reshape(-1, inputs // group, *taps))


def _layer(conv: ir.Node) -> list[ir.Node]:
    """The Conv, and what alone uses its result and does the same at every place."""
    layer = [conv]
    while (user := only_user(layer[-1].outputs[0])) is not None:
        if is_op(user, "BatchNormalization"):
            constant = all(array(value) is not None for value in user.inputs[1:])
            if not constant or int_attribute(user, "training_mode", 0):
                break
        elif not is_clamp(user):
            break
        layer.append(user)
    return layer


def _repeated(graph: ir.Graph, value: ir.Value | None, phases: int, user: ir.Node) -> ir.Value | None:
    numbers = array(value)
    if value is None or numbers is None or phases == 1:
        return value
    copy = f"{value.name}_{user.name}"
    return own(graph, value, np.repeat(numbers, phases), users=(user,), copy=copy)


def _moves(graph: ir.Graph, window: _Window, channels: int, name: str) -> Iterator[tuple[str, ir.Node]]:
    """The nodes that put the phases side by side and crop the image, and labels of what they take."""

    def constant(label: str, numbers: list[int]) -> ir.Value:
        return add_initializer(graph, f"{name}.{label}", np.array(numbers, np.int64))

    stride = window.strides[0]
    if stride > 1 and len(window.strides) == 2:
        yield "phases", ir.node("DepthToSpace", [None], {"blocksize": stride, "mode": "CRD"})
    elif stride > 1:
        yield "phases", ir.node("Reshape", [None, constant("apart", [0, channels, stride, -1])])
        yield "apart", ir.node("Transpose", [None], {"perm": [0, 1, 3, 2]})
        yield "side_by_side", ir.node("Reshape", [None, constant("line", [0, channels, -1])])
    axes = [axis for axis, crop in enumerate(window.crop) if any(crop)]
    if axes:
        starts = [window.crop[axis][0] for axis in axes]
        ends = [-window.crop[axis][1] or _NO_END for axis in axes]
        inputs = [constant("starts", starts), constant("ends", ends), constant("axes", [a + 2 for a in axes])]
        yield "uncropped", ir.node("Slice", [None, *inputs])
