"""Turn the kernels that BatchNormalization would turn."""

from __future__ import annotations

__all__ = ["PositiveBatchNormPass"]

import logging

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from ..values import array, gathered_names, own, set_array
from .fold_batch_norm import Fold, match_fold

logger = logging.getLogger(__name__)

_BIAS = 2
"""Which input of a Conv or Gemm."""
_GAMMA, _MEAN = 1, 3
"""Which inputs of BatchNormalization."""


class PositiveBatchNormPass(ir.passes.InPlacePass):
    """Make every ``gamma`` that ``FoldBatchNormPass`` would fold 0 or more, by turning kernels.

    Where ``gamma[o] < 0``: ``w[o] -> -w[o]``, ``b[o] -> -b[o]``, ``mean[o] -> -mean[o]``,
    ``gamma[o] -> -gamma[o]``. The layer then gives ``-t[o]``, and

        (-gamma) * (-t - (-mean)) / sqrt(var + eps) + beta  =  gamma * (t - mean) / sqrt(var + eps) + beta

    bit for bit, as floats round alike on both sides of 0. Folded, both give the same weights and biases.

    A bias, ``gamma`` or ``mean`` that other nodes use, or that BatchNormalization takes twice, is copied as
    ``<weight>_bias``, ``<weight>_gamma`` or ``<weight>_mean``.

    Left alone: what ``FoldBatchNormPass`` leaves alone; so is a BatchNormalization behind another one.
    """

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        turned = 0
        with gathered_names(model.graph):
            for node in model.graph:
                fold = match_fold(node)
                if fold is not None:
                    turned += _turn(node, fold)
        if turned:
            logger.info("Turned the sign of %d kernels before BatchNormalization", turned)
        return ir.passes.PassResult(model, modified=bool(turned))


def _turn(norm: ir.Node, fold: Fold) -> int:
    """Turn the kernels of one layer that have a negative gamma; return how many."""
    layer, weight = fold.layer, fold.weight
    gamma, kernels = array(norm.inputs[_GAMMA]), array(weight)
    assert gamma is not None  # match_fold has looked
    assert kernels is not None
    signs = np.where(gamma < 0, np.float32(-1), np.float32(1))
    turned = int((gamma < 0).sum())
    if turned:
        set_array(weight, kernels * signs.reshape(-1, *[1] * (kernels.ndim - 1)))
        _multiply(layer, _BIAS, signs, copy=f"{weight.name}_bias")
        _multiply(norm, _GAMMA, signs, copy=f"{weight.name}_gamma")
        _multiply(norm, _MEAN, signs, copy=f"{weight.name}_mean")
    return turned


def _multiply(node: ir.Node, index: int, signs: NDArray[np.float32], *, copy: str) -> None:
    """Multiply a constant input of a node, if it has one: in place, or a copy if other nodes use it."""
    value = node.inputs[index] if index < len(node.inputs) else None
    numbers, graph = array(value), node.graph
    assert isinstance(graph, ir.Graph)  # the caller iterates over one
    if value is not None and numbers is not None:
        node.replace_input_with(index, own(graph, value, numbers * signs, users=[node], copy=copy))
