"""Write automatic padding out."""

from __future__ import annotations

__all__ = ["ResolveAutoPadPass"]

import logging
from collections.abc import Sequence

import onnx_ir as ir

from ..values import is_op

logger = logging.getLogger(__name__)

_OPS = ("Conv", "MaxPool", "AveragePool", "LpPool")


class ResolveAutoPadPass(ir.passes.InPlacePass):
    """Replace ``auto_pad`` of Conv and pooling by the ``pads`` it stands for.

    Before: ``y = Conv<auto_pad="SAME_UPPER", kernel_shape=[4, 4]>(x, w)``
    After:  ``y = Conv<pads=[1, 1, 2, 2], kernel_shape=[4, 4]>(x, w)``

    ``total = max((ceil(size / stride) - 1) * stride + (kernel - 1) * dilation + 1 - size, 0)`` on each
    axis; the odd one goes to the end for ``SAME_UPPER`` and to the beginning for ``SAME_LOWER``.
    ``VALID`` is no padding. Exact by the standard. Where a pooling window is smaller than its stride and the
    total would be negative, ONNX Runtime differs: it refuses MaxPool, and moves the windows of the others.

    Left alone, for the importer to resolve when the size is there: SAME where the size of an axis with a
    stride above 1 is not known, or the kernel is not.
    """

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        resolved = sum(
            _resolve(node)
            for node in ir.traversal.RecursiveGraphIterator(model.graph)
            if is_op(node, *_OPS) and "auto_pad" in node.attributes
        )
        if resolved:
            logger.info("Wrote out the padding of %d nodes", resolved)
        return ir.passes.PassResult(model, modified=bool(resolved))


def _resolve(node: ir.Node) -> bool:
    mode = node.attributes["auto_pad"].as_string()
    if mode != "NOTSET":
        pads = _pads(node, mode)
        if pads is None:
            logger.debug("Left auto_pad=%s of %s: a size is not known", mode, node.name)
            return False
        node.attributes["pads"] = ir.AttrInt64s("pads", pads)
    del node.attributes["auto_pad"]
    return True


def _pads(node: ir.Node, mode: str) -> list[int] | None:
    kernel = _kernel(node)
    if kernel is None:
        return None
    rank = len(kernel)
    if mode == "VALID":
        return [0] * (2 * rank)
    strides = _ints(node, "strides", rank)
    dilations = _ints(node, "dilations", rank)
    source = node.inputs[0]
    shape = source.shape if source is not None else None
    begins, ends = [], []
    for axis in range(rank):
        extent = (kernel[axis] - 1) * dilations[axis] + 1
        stride = strides[axis]
        if stride == 1:
            total = extent - 1
        else:
            size = shape[axis + 2] if shape is not None else None
            if not isinstance(size, int):
                return None
            total = max((-(-size // stride) - 1) * stride + extent - size, 0)
        small = total // 2
        begins.append(small if mode == "SAME_UPPER" else total - small)
        ends.append(total - small if mode == "SAME_UPPER" else small)
    return begins + ends


def _kernel(node: ir.Node) -> Sequence[int] | None:
    if "kernel_shape" in node.attributes:
        return node.attributes["kernel_shape"].as_ints()
    weight = node.inputs[1] if len(node.inputs) > 1 else None
    if weight is None or weight.shape is None:
        return None
    dims = tuple(weight.shape)[2:]
    return [dim for dim in dims if isinstance(dim, int)] if weight.shape.is_static() else None


def _ints(node: ir.Node, name: str, rank: int) -> Sequence[int]:
    attribute = node.attributes.get(name)
    return [1] * rank if attribute is None else attribute.as_ints()
