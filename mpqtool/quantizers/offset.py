"""Give the layers behind an offset what they need of it."""

from __future__ import annotations

__all__ = ["add_offset", "fold_offset", "hand_on_offset"]

from typing import Any

from torch import Tensor, fx
from torch.nn import functional as F

from mpqtool.importer.padding import pad
from mpqtool.passes.placement import CLAMPS, PASS_THROUGH

_LAYERS = ("Conv", "Gemm")


def fold_offset(x: Tensor, weight: Tensor, bias: Tensor | None, offset: float | Tensor) -> Tensor:
    """The bias of a layer whose input lacks an offset: ``bias + offset * sum(weight)``, ``(kernels,)``.

    Source: Bhalgat et al., LSQ+, equation 5.
    """
    folded = offset * weight.flatten(1).sum(1)
    return folded if bias is None else bias + folded


def add_offset(x: Tensor, offset: float | Tensor) -> Tensor:
    """The value itself, for what cannot fold the offset that it lacks."""
    return x + offset


def hand_on_offset(graph: fx.Graph, source: fx.Node, offset: float | fx.Node, padding: str) -> None:
    """Change every layer that uses ``source``, directly or moved, to reckon with the offset it lacks.

    A learned offset, which is a node, is given back to every other user. With a constant one there is none:
    the plan was checked (``passes.quantize.offsets``), and pools hand it on.

    Args:
        graph: Changed in place.
        source: What gives a value without its offset.
        offset: The offset.
        padding: ``offset``, where a layer pads with it, or ``zero``; see ``ActivationQuant``.
    """
    for user in tuple(source.users):
        op = user.meta.get("onnx_op")
        if op in _LAYERS and user.args[0] is source and _has_constant_weight(user):
            with graph.inserting_before(user):
                _change(graph, user, offset, padding)
        elif op in PASS_THROUGH and op not in CLAMPS and not _adds_numbers(user):
            hand_on_offset(graph, user, offset, padding)
        elif isinstance(offset, fx.Node):
            with graph.inserting_before(user):
                user.replace_input_with(source, _added(graph, source, offset))


def _has_constant_weight(layer: fx.Node) -> bool:
    """Whether a Conv or Gemm multiplies by a constant ``(kernels, ...)``, as ``placement.is_weighted`` asks.

    With a computed one, or in another form, it multiplies the real value.
    """
    weight = layer.args[1]
    if isinstance(weight, fx.Node) and weight.op == "call_module":  # its quantizer
        weight = weight.args[0]
    canonical = layer.meta["onnx_op"] != "Gemm" or layer.target is F.linear
    return canonical and isinstance(weight, fx.Node) and weight.op == "get_attr"


def _adds_numbers(move: fx.Node) -> bool:
    """Whether an operator puts real numbers beside what it moves; zeros become the offset, as in padding."""
    if move.target is pad:
        return move.args[2] not in (0, 0.0, (0.0,))
    return "tf_crop_and_resize" in (*move.args, *move.kwargs.values())


def _added(graph: fx.Graph, x: Any, offset: Any) -> fx.Node:
    node = graph.call_function(add_offset, (x, offset))
    node.meta["onnx_op"] = "AddOffset"
    return node


def _change(graph: fx.Graph, layer: fx.Node, offset: float | fx.Node, padding: str) -> None:
    x, weight, bias, *rest = (*layer.args, None) if len(layer.args) == 2 else layer.args
    if padding == "zero" and _is_padded(rest):
        layer.args = (_added(graph, x, offset), weight, bias, *rest)
    else:
        node = graph.call_function(fold_offset, (x, weight, bias, offset))
        node.meta["onnx_op"] = "FoldOffset"
        layer.args = (x, weight, node, *rest)


def _is_padded(rest: list[Any]) -> bool:
    """Whether a layer pads: behind its bias come stride, padding, dilation, groups, automatic padding."""
    if len(rest) < 2:
        return False
    pads = rest[1] or ()
    automatic = len(rest) > 4 and rest[4] not in ("NOTSET", "VALID")
    return any(pads) or automatic
