"""Put what is added to a convolution into its bias."""

from __future__ import annotations

__all__ = ["FuseAddIntoConvBiasPass", "RemoveZeroBiasPass"]

import logging

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from ..values import add_initializer, array, is_op, only_user, replace_value, set_array

logger = logging.getLogger(__name__)


class FuseAddIntoConvBiasPass(ir.passes.InPlacePass):
    """Replace ``Conv(x, w[, b]) + c`` by ``Conv(x, w, b + c)`` for a constant ``c`` per channel.

    ``c`` is a scalar, or has one dimension above 1, the channels. The bias keeps the name of ``b``, else
    of ``c``; if other nodes use that one, it is copied as ``<weight>_bias``.

    Left alone: a Conv whose output has other users or is a graph output, a weight or ``b`` that is not
    constant, and a ``c`` that varies over positions or samples.
    """

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        fused = sum(_fuse(node) for node in model.graph if is_op(node, "Conv"))
        if fused:
            logger.info("Fused %d Add nodes into the bias of a Conv", fused)
        return ir.passes.PassResult(model, modified=bool(fused))


class RemoveZeroBiasPass(ir.passes.InPlacePass):
    """Drop the bias of Conv and Gemm where it is a constant of zeros.

    Exporters write one where the layer has none. Left alone: a bias with any other number in it.
    """

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        dropped = 0
        for node in model.graph:
            if is_op(node, "Conv", "Gemm") and len(node.inputs) == 3:
                bias = array(node.inputs[2])
                if bias is not None and not bias.any():
                    node.resize_inputs(2)
                    dropped += 1
        if dropped:
            logger.info("Dropped %d biases of zeros", dropped)
        return ir.passes.PassResult(model, modified=bool(dropped))


def _fuse(conv: ir.Node) -> bool:
    out, weight = conv.outputs[0], array(conv.inputs[1])
    bias = conv.inputs[2] if len(conv.inputs) > 2 else None
    add = only_user(out)
    before = array(bias)
    if weight is None or not is_op(add, "Add") or (bias is not None and before is None):
        return False
    assert add is not None  # is_op has looked
    added = add.inputs[1] if add.inputs[0] is out else add.inputs[0]
    numbers = _per_channel(array(added), len(weight), weight.ndim)
    if added is None or numbers is None:
        return False
    total = numbers if before is None else before + numbers
    holder = added if bias is None else bias
    conv.resize_inputs(3)
    conv.replace_input_with(2, _hold(holder, (conv, add), total, conv))
    graph = conv.graph
    assert isinstance(graph, ir.Graph)  # the caller iterates over one
    replace_value(add.outputs[0], out)
    graph.remove(add, safe=True)
    return True


def _hold(
    value: ir.Value, users: tuple[ir.Node, ...], numbers: NDArray[np.float32], conv: ir.Node
) -> ir.Value:
    """The initializer with these numbers: edited if only these nodes use it, else a copy."""
    if set(value.consumers()) <= set(users) and not value.is_graph_output():
        set_array(value, numbers)
        return value
    weight = conv.inputs[1]
    assert weight is not None  # a Conv has one
    assert isinstance(conv.graph, ir.Graph)  # the caller iterates over one
    logger.info("Copied %s for %s: other nodes use it too", value.name, conv.name)
    return add_initializer(conv.graph, f"{weight.name}_bias", numbers)


def _per_channel(numbers: NDArray[np.float32] | None, kernels: int, rank: int) -> NDArray[np.float32] | None:
    """``[kernels]`` from a scalar or ``[1, kernels, 1, ...]``; None from the rest."""
    if numbers is None or numbers.dtype != np.float32 or numbers.ndim > rank:
        return None
    padded = (1,) * (rank - numbers.ndim) + numbers.shape
    if numbers.size != 1 and padded != (1, kernels, *[1] * (rank - 2)):
        return None
    return np.ascontiguousarray(np.broadcast_to(numbers.reshape(-1), (kernels,)))
