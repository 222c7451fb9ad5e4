"""Lower the operators that only move, choose or bound codes."""

from __future__ import annotations

__all__ = ["LowerMovePass"]

import numpy as np
import onnx_ir as ir

from .. import metadata
from ..constants import constant
from ..normalize.ceil_mode import whole_windows
from ..placement import CLAMPS, PASS_THROUGH, is_pass_through
from ..values import int_attribute, is_op, only_user, text_attribute, unused_name
from .build import lower_each, refuse, replace, shaped
from .match import Codes, Requantization, dequantized, requantization
from .resize import doublings
from .steps import Steps


class LowerMovePass(ir.passes.InPlacePass):
    """Let MaxPool, Reshape and the like work on the codes themselves.

    ``DQ(x) -> op -> Q`` with one scale and zero point becomes ``op`` on uint8; a Relu or Clip becomes a
    Clip of the codes. MaxPool commutes with quantization because that is monotone. A Pad with zeros pads
    with the zero point. Each output of a Split has its own Q; one that nobody uses needs none. DepthToSpace
    becomes two Transpose where its sizes are known. A MaxPool with ``ceil_mode`` becomes one that pads until
    its last window is whole, which is the same.

    What only asks for the shape of real values asks for that of their codes.

    Left alone: another scale behind the operator than before it, a MaxPool that also gives indices, a Pad
    with another number, and a Resize that computes new values.
    """

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        return lower_each(model, (*PASS_THROUGH, "Shape", "Size"), _lower)


def _lower(graph: ir.Graph, node: ir.Node) -> bool:
    x = dequantized(node.inputs[0])
    if x is None:
        return refuse(node, "its input is not quantized")
    if is_op(node, "Shape", "Size"):
        node.replace_input_with(0, x.value)
        return True
    if is_op(node, "MaxPool") and len(node.outputs) > 1 and node.outputs[1].uses():
        return refuse(node, "its indices are used")
    if is_op(node, "Pad", "Resize") and not is_pass_through(node):
        return refuse(node, "its result holds other numbers than its input")
    ends = _ends(node)
    if ends is None:
        return refuse(node, "its result is used before it is quantized")
    if any((end.scale, end.zero_point) != (x.scale, x.zero_point) for end in ends.values()):
        return refuse(node, "its result has another scale than its input")
    whole = whole_windows(node)
    if whole is not None:  # ONNX Runtime plans memory by ONNX's sizes, of which some are one too many
        node.attributes["ceil_mode"] = ir.AttrInt64("ceil_mode", 0)
        node.attributes["pads"] = ir.AttrInt64s("pads", whole.pads)
    if is_op(node, "Split"):
        return _replace_parts(graph, node, _moved(graph, node, x), x, ends)
    nodes = _faster(graph, node, x.value) or [_moved(graph, node, x)]  # one or the other: a node is a user
    return replace(node, ends[0], nodes, clamped=_is_inside(node, x, ends[0]))


def _moved(graph: ir.Graph, node: ir.Node, x: Codes) -> ir.Node:
    """The operator itself, of codes."""
    if is_op(node, *CLAMPS):
        return ir.node("Identity", [x.value], name=node.name)
    inputs = [x.value, *node.inputs[1:]]
    if is_op(node, "Pad") and text_attribute(node, "mode", "constant") == "constant":
        inputs[2:3] = [constant(graph, f"{x.name}.zero_point", np.uint8(x.zero_point))]
    count = len(node.outputs) if is_op(node, "Split") else 1
    return ir.node(node.op_type, inputs, dict(node.attributes), num_outputs=count, name=node.name)


def _faster(graph: ir.Graph, node: ir.Node, x: ir.Value) -> list[ir.Node]:
    """What gives the same codes sooner than the operator; nothing where that is fast."""
    if is_op(node, "Resize"):
        return doublings(graph, node, x)
    return _two_transposes(graph, node, x) or _float_pool(graph, node, x)


def _two_transposes(graph: ir.Graph, node: ir.Node, x: ir.Value) -> list[ir.Node]:
    """DepthToSpace of known sizes, mode CRD, as two moves of one axis each: two to three times as fast.

    First the columns of a block go behind the columns of the image, then its rows behind the rows.
    """
    if not is_op(node, "DepthToSpace") or text_attribute(node, "mode", "DCR") != "CRD":
        return []
    sizes = [size for size in tuple(x.shape or ())[1:] if isinstance(size, int)]
    if len(sizes) != 3:
        return []
    block, (depth, height, width) = int_attribute(node, "blocksize", 1), sizes
    channels = depth // block**2
    targets = [
        [0, channels * block, block, height * width],
        [0, channels, block, height, width * block],
        [0, channels, height * block, width * block],
    ]
    nodes: list[ir.Node] = []
    for index, target in enumerate(targets):
        if nodes:
            perm = [0, 1, 3, 2, 4][: len(targets[index - 1])]
            nodes.append(ir.node("Transpose", [nodes[-1].outputs[0]], {"perm": perm}))
        shape = constant(graph, "shape." + "x".join(map(str, target)), np.array(target, np.int64))
        nodes.append(ir.node("Reshape", [nodes[-1].outputs[0] if nodes else x, shape]))
    for index, made in enumerate(nodes[:-1]):
        name = unused_name(graph, f"{node.outputs[0].name}.blocks{index}")
        made.outputs[0].name, made.outputs[0].type = name, ir.TensorType(ir.DataType.UINT8)
    return nodes


def _float_pool(graph: ir.Graph, node: ir.Node, x: ir.Value) -> list[ir.Node]:
    """MaxPool of codes as float32: 5 times as fast, but where ONNX Runtime pools ``(y, x, channel)``.

    That it does between convolutions, which hand on this layout.
    """
    if not is_op(node, "MaxPool") or (_meets_conv(node, forward=False) and _meets_conv(node, forward=True)):
        return []
    steps = Steps(graph, node)
    value = steps.cast(x, ir.DataType.FLOAT, label="float")
    attributes = {name: attribute.value for name, attribute in node.attributes.items()}
    value = steps.add(
        "MaxPool", [value], ir.DataType.FLOAT, label="pooled", like=node.outputs[0], **attributes
    )
    steps.cast(value, ir.DataType.UINT8, label="codes")
    return steps.nodes


def _meets_conv(node: ir.Node, *, forward: bool) -> bool:
    """Whether a convolution makes what a node takes, or takes what it makes, at any distance."""
    seen, waiting = {node}, [node]
    while waiting:
        for other in waiting.pop().successors() if forward else waiting.pop().predecessors():
            if is_op(other, "Conv", "QLinearConv"):
                return True
            if other not in seen:
                seen.add(other)
                waiting.append(other)
    return False


def _ends(node: ir.Node) -> dict[int, Requantization] | None:
    """What follows each output that is used; None if one of them is used before it is quantized."""
    if not is_op(node, "Split"):
        end = requantization(node)
        return None if end is None else {0: end}
    ends = {}
    for index, part in enumerate(node.outputs):
        if not part.uses() and not part.is_graph_output():
            continue
        quantize = only_user(part)
        end = requantization(quantize) if is_op(quantize, "QuantizeLinear") and quantize else None
        if end is None:
            return None
        ends[index] = end
    return ends or None


def _is_inside(node: ir.Node, x: Codes, end: Requantization) -> bool:
    """Whether the codes are in the range already, and those of real 0 that a Pad adds."""
    high = max(x.high, x.zero_point) if is_op(node, "Pad") else x.high
    return end.low <= 0 and end.high >= high


def _replace_parts(
    graph: ir.Graph, node: ir.Node, moved: ir.Node, x: Codes, ends: dict[int, Requantization]
) -> bool:
    """Put a Split of codes in the place of a Split and what follows its outputs; True."""
    old, new, made = [node], [moved], []
    for index, part in enumerate(node.outputs):
        codes, end = moved.outputs[index], ends.get(index)
        shaped(codes, unused_name(graph, f"{part.name}.part"), ir.DataType.UINT8, part)
        if end is None:
            continue
        if not _is_inside(node, x, end):
            low = constant(graph, f"code{end.low}", np.uint8(end.low))
            high = constant(graph, f"code{end.high}", np.uint8(end.high))
            new.append(ir.node("Clip", [codes, low, high], name=str(end.codes.name)))
            codes = new[-1].outputs[0]
        shaped(codes, str(end.codes.name), ir.DataType.UINT8, end.codes)
        new[-1].metadata_props[metadata.BITS] = str(end.bits)
        old += end.nodes
        made.append((end.codes, codes))
    ir.convenience.replace_nodes_and_values(graph, node, old, new, *zip(*made, strict=True))
    return True
