"""Fold BatchNormalization into the layer before it."""

from __future__ import annotations

__all__ = ["Fold", "FoldBatchNormPass", "batch_norm_factors", "match_fold"]

import logging
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from ..layers import bias_of, is_layer, set_bias
from ..values import (
    array,
    float_attribute,
    gathered_names,
    int_attribute,
    is_op,
    only_user,
    replace_value,
    set_array,
)

logger = logging.getLogger(__name__)


class Fold(NamedTuple):
    """A layer with BatchNormalization behind it, and what folding would do to it.

    Attributes:
        layer: Conv, or Gemm with ``transB=1``.
        weight: Its weight, which no other node uses.
        factors: What each kernel would be multiplied by, ``a``.
        shift: What would be added behind the folded layer without bias, ``beta - mean * a``.
    """

    layer: ir.Node
    weight: ir.Value
    factors: NDArray[np.float32]
    shift: NDArray[np.float32]


class FoldBatchNormPass(ir.passes.InPlacePass):
    """Fold inference-mode BatchNormalization into the Conv, or Gemm with ``transB=1``, before it.

    Before: ``t = Conv(x, w)  y = BatchNormalization(t, gamma, beta, mean, var)``
    After:  ``y = Conv(x, w, w_bias)``, ``w`` changed

    With ``a[o] = gamma[o] / sqrt(var[o] + eps)``, all in float32:
    ``w'[o] = a[o] * w[o]`` and ``b'[o] = a[o] * b[o] + (beta[o] - a[o] * mean[o])``.

    The weight keeps its name, the layer's output gets the name of the normalized value. A layer without
    bias gets one called ``<weight>_bias``; a bias that other nodes use is copied under that name.

    Left alone: a normalization in training mode or with parameters that are not constant, a layer whose
    output has other users or is a graph output, and a weight that is not constant or that other nodes
    use too: its plan entry could not stand for two folded weights.
    """

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        folded = sum(1 for _ in _folded(model))
        if folded:
            logger.info("Folded %d BatchNormalization nodes", folded)
        return ir.passes.PassResult(model, modified=bool(folded))


def batch_norm_factors(model: ir.Model) -> dict[str, NDArray[np.float32]]:
    """What folding will multiply each kernel by.

    Per-kernel quantization is equivariant: a scale ``s[o]`` of the unfolded weight becomes
    ``abs(a[o]) * s[o]``, and a negative ``a[o]`` turns the signs of the codes.

    Returns:
        By weight name: ``a``, ``(kernels,)``, float32; the product of all ``a`` where one normalization is
        behind another. Only the weights that ``FoldBatchNormPass`` would change.
    """
    factors: dict[str, NDArray[np.float32]] = {}
    for fold in _folded(model.clone()):
        name = str(fold.weight.name)
        factors[name] = factors.get(name, np.float32(1)) * fold.factors
    return factors


def _folded(model: ir.Model) -> Iterator[Fold]:
    """Fold one normalization after the other, in place."""
    with gathered_names(model.graph):
        for node in model.graph:
            fold = match_fold(node)
            if fold is not None:
                _apply(node, fold)
                yield fold


def match_fold(norm: ir.Node) -> Fold | None:
    """What ``FoldBatchNormPass`` would fold, if the node is a BatchNormalization that it folds; or None."""
    if not is_op(norm, "BatchNormalization") or int_attribute(norm, "training_mode", 0):
        return None
    x = norm.inputs[0]
    layer = x.producer() if x is not None else None
    if x is None or layer is None or only_user(x) is not norm:
        return None
    if not is_layer(layer):
        return None
    gamma, beta, mean, var = (array(value) for value in norm.inputs[1:5])
    weight = layer.inputs[1]
    bias = layer.inputs[2] if len(layer.inputs) > 2 else None
    if weight is None or array(weight) is None or (bias is not None and array(bias) is None):
        return None
    if gamma is None or beta is None or mean is None or var is None:
        return None
    if only_user(weight) is not layer:
        logger.info("Kept BatchNormalization %s: other nodes use %s too", norm.name, weight.name)
        return None
    epsilon = np.float32(float_attribute(norm, "epsilon", 1e-5))
    factors = np.asarray(gamma / np.sqrt(var + epsilon), np.float32)
    return Fold(layer, weight, factors, beta - factors * mean)


def _apply(norm: ir.Node, fold: Fold) -> None:
    layer, weight = fold.layer, fold.weight
    graph = layer.graph
    assert isinstance(graph, ir.Graph)  # the caller iterates over one
    numbers = array(weight)
    assert numbers is not None  # match_fold has looked
    set_array(weight, numbers * fold.factors.reshape(-1, *[1] * (numbers.ndim - 1)))
    before = bias_of(layer)
    set_bias(layer, fold.shift if before is None else before * fold.factors + fold.shift)
    parameters = [value for value in norm.inputs[1:] if value is not None]
    replace_value(norm.outputs[0], layer.outputs[0])
    graph.remove(norm, safe=True)
    for value in parameters:
        if not value.uses() and not value.is_graph_output():
            graph.initializers.pop(str(value.name), None)
