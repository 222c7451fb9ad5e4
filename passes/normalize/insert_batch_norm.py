"""Put BatchNormalization back behind the layers that a file has it folded into."""

from __future__ import annotations

__all__ = ["InsertBatchNormPass", "without_batch_norm"]

import logging
from collections.abc import Iterator, Mapping

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from ..cost import positions
from ..ends import last_layers
from ..errors import PassError
from ..placement import is_weighted
from ..values import (
    add_initializer,
    all_values,
    array,
    gathered_names,
    is_op,
    only_user,
    set_array,
    stamp,
    unused_name,
)
from .fold_batch_norm import match_fold

logger = logging.getLogger(__name__)

_EPSILON = 1e-5
"""Added to the variance: what ONNX and the frameworks take."""

_LARGEST = 0.1
"""Root mean square of the kernels afterwards, at most. BatchNormalization hides it, and tanh, with which
DoReFa begins, changes weights of this size by 1 %, but folded ones of size 1 by 26 %."""

_SMALLEST = 2.0**-20
"""Least factor taken out of a kernel. With less, the variance of the kernel would be mostly that of how
float32 rounds the bias, which was measured with it."""


class InsertBatchNormPass(ir.passes.InPlacePass):
    """Put BatchNormalization behind Conv, so that the network still computes what it did.

    Before: ``y = Conv(x, w, b)``
    After:  ``y_conv = Conv(x, w')  y = BatchNormalization(y_conv, gamma, beta, mean', var')``

    It undoes what folding did to the spread of the kernels: ``a[o]`` is the root mean square of ``w[o]``
    over the median one, or over 0.1 if that is less, so all kernels of ``w'[o] = w[o] / a[o]`` have the same.
    With ``mean`` and ``var`` of ``y`` on data,

        mean' = (mean - b) / a    var' = var / a**2    gamma = a * sqrt(var' + eps)    beta = mean

    are the statistics of ``y_conv``, and what gives ``y`` again: ``FoldBatchNormPass`` gets ``a`` and ``b``
    back. A kernel of zeros has ``a = 1``.

    The root mean square is the standard deviation around 0. Around the mean it would be nothing for a
    kernel of one weight, and next to nothing for one that averages.

    Parameters are called ``<weight>_gamma``, ``_beta``, ``_mean`` and ``_var``, the output of the Conv
    ``<output>_conv``. All other values keep their names.

    Left alone: an output that is normalized already.

    Args:
        statistics: By name of a value of ``without_batch_norm``: its mean and its variance, ``(kernels,)``.
    """

    def __init__(self, statistics: Mapping[str, tuple[NDArray[np.float64], NDArray[np.float64]]]) -> None:
        self.statistics = statistics

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        layers = {str(node.outputs[0].name): node for node in _layers(model.graph)}
        done = {str(v.name) for v in all_values(model.graph) if is_op(v.producer(), "BatchNormalization")}
        inserted = 0
        with gathered_names(model.graph):
            for name, (mean, variance) in self.statistics.items():
                if name in layers:
                    stamp(_insert(layers[name], mean, variance), self)
                    inserted += 1
                elif name not in done:
                    allowed = ", ".join(layers) or "none"
                    raise PassError(
                        f"Cannot put BatchNormalization behind {name!r}: allowed are {allowed}. "
                        "Take the statistics of the values that without_batch_norm names."
                    )
        if inserted:
            logger.info("Inserted %d BatchNormalization nodes", inserted)
        return ir.passes.PassResult(model, modified=bool(inserted))


def without_batch_norm(model: ir.Model) -> tuple[str, ...]:
    """Outputs of the Conv nodes that ``InsertBatchNormPass`` can put BatchNormalization behind.

    None of a Conv

    - whose weight or bias is not constant, or whose weight other nodes use too;
    - with BatchNormalization behind that ``FoldBatchNormPass`` would fold into it;
    - that is one of the last layers, whose result is not to follow the batch;
    - with one output position per sample, as behind a global pooling: a batch is too few numbers. So are
      those of a Gemm, which has one position as well.

    Args:
        model: Normal form.

    Returns:
        Names, in graph order.
    """
    return tuple(str(node.outputs[0].name) for node in _layers(model.graph))


def _layers(graph: ir.Graph) -> Iterator[ir.Node]:
    last = last_layers(graph)
    for node in graph:
        if is_op(node, "Conv") and is_weighted(node) and node not in last and _can_have_one(node):
            yield node


def _can_have_one(layer: ir.Node) -> bool:
    weight, bias = layer.inputs[1], _bias(layer)
    if weight is None or only_user(weight) is not layer or (bias is not None and array(bias) is None):
        return False
    behind = only_user(layer.outputs[0])
    return (behind is None or match_fold(behind) is None) and positions("Conv", layer) != 1


def _bias(layer: ir.Node) -> ir.Value | None:
    return layer.inputs[2] if len(layer.inputs) > 2 else None


def _insert(layer: ir.Node, mean: NDArray[np.float64], variance: NDArray[np.float64]) -> ir.Node:
    """Normalize the output of a Conv; return the new node."""
    graph, weight, out = layer.graph, layer.inputs[1], layer.outputs[0]
    numbers = array(weight)
    assert isinstance(graph, ir.Graph)  # the caller iterates over one
    assert weight is not None  # _layers has looked
    assert numbers is not None
    factors = _factors(numbers)
    set_array(weight, (numbers / factors.reshape(-1, *[1] * (numbers.ndim - 1))).astype(np.float32))
    bias = _take_bias(layer)
    parameters = {
        "gamma": np.sqrt(variance + factors**2 * _EPSILON),
        "beta": mean,
        "mean": (mean - bias) / factors,
        "var": variance / factors**2,
    }
    inputs = [
        add_initializer(graph, f"{weight.name}_{key}", numbers.astype(np.float32))
        for key, numbers in parameters.items()
    ]
    norm = ir.node("BatchNormalization", [out, *inputs], {"epsilon": _EPSILON})
    graph.insert_after(layer, norm)
    _take_place(norm, out)
    return norm


def _factors(weight: NDArray[np.float32]) -> NDArray[np.float64]:
    """The root mean square of each kernel over what all are to have, ``(kernels,)``; 1 for zeros."""
    sizes = np.sqrt(np.square(weight.reshape(len(weight), -1), dtype=np.float64).mean(1))
    zero = sizes == 0
    if zero.all():
        return np.ones_like(sizes)
    common = min(float(np.median(sizes[~zero])), _LARGEST)
    return np.where(zero, 1.0, np.maximum(sizes / common, _SMALLEST))


def _take_bias(layer: ir.Node) -> NDArray[np.float64]:
    """Remove the bias of a Conv, and give its numbers; ``(1,)`` if it has none."""
    bias = _bias(layer)
    numbers = array(bias)
    layer.resize_inputs(2)
    if bias is None or numbers is None:
        return np.zeros(1)
    if not bias.uses() and not bias.is_graph_output() and layer.graph is not None:
        layer.graph.initializers.pop(str(bias.name), None)
    return numbers.astype(np.float64)


def _take_place(norm: ir.Node, out: ir.Value) -> None:
    """Let the result of a node that takes ``out`` have its name, its type and all its other users."""
    graph, result, name = norm.graph, norm.outputs[0], out.name
    assert isinstance(graph, ir.Graph)  # it was inserted into one
    result.type, result.shape = out.type, None if out.shape is None else out.shape.copy()
    out.replace_all_uses_with(result)
    norm.replace_input_with(0, out)
    out.name = unused_name(graph, f"{name}_conv")
    result.name = name
