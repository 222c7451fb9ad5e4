"""Put what is added to a convolution into its bias."""

from __future__ import annotations

__all__ = ["FuseAddIntoConvBiasPass", "RemoveZeroBiasPass"]

import logging
from collections.abc import Collection

import onnx_ir as ir

from ..values import (
    array,
    as_row,
    gathered_names,
    int_attribute,
    is_op,
    only_user,
    own,
    replace_value,
)

logger = logging.getLogger(__name__)


class FuseAddIntoConvBiasPass(ir.passes.InPlacePass):
    """Replace ``Conv(x, w[, b]) + c`` by ``Conv(x, w, b + c)`` for a constant ``c`` per channel.

    Before: ``t = Conv(x, w)  y = Add(t, c)``    After: ``y = Conv(x, w, c)``

    The same for ConvTranspose. ``c`` has one number for each channel. The bias keeps the name of ``b``,
    and ``c`` is absorbed, else that of ``c``; if it is used twice, it is copied as ``<weight>_bias``.
    Exact, but for the order of the sum.

    Left alone: a layer whose output has other users or is a graph output, a weight or ``b`` that is not
    constant, a ``c`` that varies over positions or samples, and one number for several channels: what is
    trained as one must not become many.
    """

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        with gathered_names(model.graph):
            fused = sum(_fuse(node) for node in model.graph if is_op(node, "Conv", "ConvTranspose"))
        if fused:
            logger.info("Fused %d Add nodes into the bias of a Conv", fused)
        return ir.passes.PassResult(model, modified=bool(fused))


class RemoveZeroBiasPass(ir.passes.InPlacePass):
    """Drop the constant bias of Conv, ConvTranspose and Gemm where it is zeros and nobody's.

    Before: ``t = Conv(x, w, zeros)  y = BatchNormalization(t, ...)``
    After: ``t = Conv(x, w)  y = BatchNormalization(t, ...)``

    Exporters write one where the layer has none. Before a BatchNormalization it could learn nothing, as
    that takes every constant out again.

    Left alone: a bias with any other number in it, and one that is a parameter, or could be: without
    BatchNormalization behind the layer it may be one that starts at zero.

    Args:
        parameters: Names of all parameters, if they are known. Then zeros of another name are dropped, and
            BatchNormalization says nothing.
    """

    def __init__(self, parameters: Collection[str] | None = None) -> None:
        super().__init__()
        self.parameters = parameters

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        dropped = 0
        for node in model.graph:
            if is_op(node, "Conv", "ConvTranspose", "Gemm") and len(node.inputs) == 3:
                bias = array(node.inputs[2])
                if bias is not None and not bias.any() and self._is_nobodys(node):
                    node.resize_inputs(2)
                    dropped += 1
        if dropped:
            logger.info("Dropped %d biases of zeros", dropped)
        return ir.passes.PassResult(model, modified=bool(dropped))

    def _is_nobodys(self, node: ir.Node) -> bool:
        bias = node.inputs[2]
        assert bias is not None  # its numbers are known
        if self.parameters is not None:
            return bias.name not in self.parameters
        return is_op(only_user(node.outputs[0]), "BatchNormalization")


def _fuse(conv: ir.Node) -> bool:
    out, weight = conv.outputs[0], array(conv.inputs[1])
    bias = conv.inputs[2] if len(conv.inputs) > 2 else None
    add = only_user(out)
    before = array(bias)
    if weight is None or not is_op(add, "Add") or (bias is not None and before is None):
        return False
    assert add is not None  # is_op has looked
    added = add.inputs[1] if add.inputs[0] is out else add.inputs[0]
    channels = len(weight) if is_op(conv, "Conv") else weight.shape[1] * int_attribute(conv, "group", 1)
    constant = array(added)
    numbers = as_row(constant, channels, rank=weight.ndim)
    if added is None or constant is None or numbers is None or constant.size != channels:
        return False
    total = numbers if before is None else before + numbers
    holder, kernels, graph = added if bias is None else bias, conv.inputs[1], conv.graph
    assert kernels is not None  # its numbers are above
    assert isinstance(graph, ir.Graph)  # the caller iterates over one
    conv.resize_inputs(3)
    conv.replace_input_with(2, own(graph, holder, total, users=(conv, add), copy=f"{kernels.name}_bias"))
    replace_value(add.outputs[0], out)
    graph.remove(add, safe=True)
    return True
