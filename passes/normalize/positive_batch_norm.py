"""Turn the kernels that BatchNormalization would turn."""

from __future__ import annotations

__all__ = ["PositiveBatchNormPass"]

import itertools
import logging

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from ..values import array, gathered_names, int_attribute, is_op, only_user, own
from .fold_batch_norm import Fold, match_fold

logger = logging.getLogger(__name__)

_FACTOR, _SHIFT = 1, 2
"""Which inputs of a Conv, a Gemm or BatchNormalization: turning both turns the result."""
_MEAN = 3
"""Which input of BatchNormalization."""


class PositiveBatchNormPass(ir.passes.InPlacePass):
    """Make every ``gamma`` that ``FoldBatchNormPass`` would fold 0 or more, by turning kernels.

    Where ``gamma[o] < 0``: ``w[o] -> -w[o]``, ``b[o] -> -b[o]``, ``mean[o] -> -mean[o]``,
    ``gamma[o] -> -gamma[o]``. The layer then gives ``-t[o]``, and

        (-gamma) * (-t - (-mean)) / sqrt(var + eps) + beta  =  gamma * (t - mean) / sqrt(var + eps) + beta

    bit for bit, as floats round alike on both sides of 0. Folded, both give the same weights and biases.

    Where one normalization is behind another, ``gamma`` and ``beta`` of that are turned in the place of ``w``
    and ``b``; the last one comes first.

    A bias, ``gamma``, ``beta`` or ``mean`` that other nodes use, or that BatchNormalization takes twice, is
    copied as ``<weight>_bias``, ``<weight>_gamma``, ``<weight>_beta`` or ``<weight>_mean``.

    Left alone: what ``FoldBatchNormPass`` leaves alone.
    """

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        turned = 0
        with gathered_names(model.graph):
            for node in model.graph:
                fold = match_fold(node)
                if fold is not None:
                    turned += _turn_chain(node, fold)
        if turned:
            logger.info("Turned the sign of %d channels before BatchNormalization", turned)
        return ir.passes.PassResult(model, modified=bool(turned))


def _turn_chain(norm: ir.Node, fold: Fold) -> int:
    """Turn what is before each normalization of one layer, the last one first; return how many channels."""
    chain = [fold.layer, norm]
    while (user := only_user(chain[-1].outputs[0])) is not None and _is_constant(user):
        chain.append(user)
    pairs = reversed(list(itertools.pairwise(chain)))
    return sum(_turn(before, behind, str(fold.weight.name)) for before, behind in pairs)


def _is_constant(node: ir.Node) -> bool:
    """Whether the node is a BatchNormalization of constant parameters, which will be folded after another."""
    constant = all(array(value) is not None for value in node.inputs[1:])
    return is_op(node, "BatchNormalization") and constant and not int_attribute(node, "training_mode", 0)


def _turn(before: ir.Node, norm: ir.Node, weight: str) -> int:
    """Turn the channels of a layer or normalization that have a negative gamma behind; return how many."""
    gamma = array(norm.inputs[_FACTOR])
    assert gamma is not None  # the callers have looked
    signs = np.where(gamma < 0, np.float32(-1), np.float32(1))
    turned = int((gamma < 0).sum())
    if turned:
        names = ("gamma", "beta") if is_op(before, "BatchNormalization") else ("weight", "bias")
        _multiply(before, _FACTOR, signs, copy=f"{weight}_{names[0]}")
        _multiply(before, _SHIFT, signs, copy=f"{weight}_{names[1]}")
        _multiply(norm, _FACTOR, signs, copy=f"{weight}_gamma")
        _multiply(norm, _MEAN, signs, copy=f"{weight}_mean")
    return turned


def _multiply(node: ir.Node, index: int, signs: NDArray[np.float32], *, copy: str) -> None:
    """Multiply a constant input of a node, if it has one: in place, or a copy if other nodes use it."""
    value = node.inputs[index] if index < len(node.inputs) else None
    numbers, graph = array(value), node.graph
    assert isinstance(graph, ir.Graph)  # the caller iterates over one
    if value is None or numbers is None:
        return
    if index == _FACTOR:  # kernels are along the first axis, entries of a bias along the last
        signs = signs.reshape(-1, *[1] * (numbers.ndim - 1))
    node.replace_input_with(index, own(graph, value, numbers * signs, users=[node], copy=copy))
