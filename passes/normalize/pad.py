"""Put padding into the convolution behind it."""

from __future__ import annotations

__all__ = ["FusePadIntoConvPass"]

import logging

import onnx_ir as ir

from ..values import array, bypass, is_op, only_user

logger = logging.getLogger(__name__)


class FusePadIntoConvPass(ir.passes.InPlacePass):
    """Replace ``Conv(Pad(x))`` by a Conv with larger ``pads``, and a Pad by nothing by ``x``. Exact.

    Before: ``p = Pad(x, {0, 0, 1, 1, 0, 0, 2, 2})  y = Conv(p, w)``
    After:  ``y = Conv<pads=[1, 1, 2, 2]>(x, w)``

    Left alone: a Pad whose mode is not constant, whose number is not 0 or whose sizes are not constant,
    negative or on the first two axes; one that other nodes use or that is a graph output; a Conv with
    ``auto_pad``. A Pad by nothing between a graph input or a constant and a graph output stays.
    """

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        fused = sum(_adds_nothing(node) or _fuse(node) for node in model.graph if is_op(node, "Pad"))
        if fused:
            logger.info("Removed %d Pad nodes", fused)
        return ir.passes.PassResult(model, modified=bool(fused))


def _adds_nothing(pad: ir.Node) -> bool:
    pads = array(pad.inputs[1])
    return pad.inputs[0] is not None and pads is not None and not pads.any() and bypass(pad)


def _fuse(pad: ir.Node) -> bool:
    x, out = pad.inputs[0], pad.outputs[0]
    conv = only_user(out)
    pads = _spatial_pads(pad)
    if x is None or pads is None or conv is None or not is_op(conv, "Conv") or conv.inputs[0] is not out:
        return False
    if "auto_pad" in conv.attributes:
        return False
    before = conv.attributes["pads"].as_ints() if "pads" in conv.attributes else [0] * len(pads)
    total = [old + new for old, new in zip(before, pads, strict=True)]
    conv.attributes["pads"] = ir.AttrInt64s("pads", total)
    conv.replace_input_with(0, x)
    assert isinstance(pad.graph, ir.Graph)  # the caller iterates over one
    pad.graph.remove(pad, safe=True)
    return True


def _spatial_pads(pad: ir.Node) -> list[int] | None:
    """``[begin, ..., end, ...]`` of the axes from 2 on, if zeros are all that is added, and only there."""
    mode = pad.attributes["mode"].as_string() if "mode" in pad.attributes else "constant"
    number = pad.inputs[2] if len(pad.inputs) > 2 else None
    axes = pad.inputs[3] if len(pad.inputs) > 3 else None
    pads, filler = array(pad.inputs[1]), array(number)
    if mode != "constant" or pads is None or axes is not None or (pads < 0).any():
        return None
    if number is not None and (filler is None or filler.any()):
        return None
    rank = len(pads) // 2
    if rank < 3 or pads[:2].any() or pads[rank : rank + 2].any():
        return None
    return [int(size) for size in (*pads[2:rank], *pads[rank + 2 :])]
