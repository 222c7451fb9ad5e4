"""What tests of equalized networks measure, channel by channel."""

from __future__ import annotations

__all__ = ["feeds_of", "maxima_of", "names_of", "quantized_per_tensor", "sqnr", "statistics_of"]

from typing import Any

import numpy as np
import onnx_ir as ir
from compare import run_onnx
from numpy.typing import NDArray

from mpqtool.passes.equalize import (
    ChannelStatistics,
    absorbable_values,
    clipped_values,
)
from mpqtool.passes.layers import is_layer
from mpqtool.passes.values import array, set_array

Feeds = dict[str, NDArray[Any]]


def feeds_of(model: ir.Model, *, batch: int = 4, seed: int = 1) -> Feeds:
    """Normal numbers of the shape of the one input."""
    (x,) = model.graph.inputs
    sizes = [dim if isinstance(dim, int) else 6 for dim in list(x.shape or ())[1:]]
    numbers = np.random.default_rng(seed).normal(size=(batch, *sizes))
    return {str(x.name): numbers.astype(np.float32)}


def names_of(model: ir.Model) -> list[str]:
    """The initializers."""
    return list(model.graph.initializers)


def maxima_of(model: ir.Model, feeds: Feeds) -> Feeds:
    """For ``equalize`` and ``rescale_depthwise``."""
    names = clipped_values(model)
    values = run_onnx(model, feeds, expose=names)
    return {name: values[name].max(axis=_others(values[name])) for name in names}


def statistics_of(model: ir.Model, feeds: Feeds) -> dict[str, ChannelStatistics]:
    """For ``absorb_bias``."""
    names = absorbable_values(model)
    values = run_onnx(model, feeds, expose=names)
    return {
        name: ChannelStatistics(
            *(f(values[name], axis=_others(values[name])) for f in (np.mean, np.std, np.min))
        )
        for name in names
    }


def _others(numbers: NDArray[Any]) -> tuple[int, ...]:
    return (0, *range(2, numbers.ndim))


def quantized_per_tensor(model: ir.Model) -> ir.Model:
    """The model with the weights of each layer rounded to 255 steps of one size."""
    result = model.clone()
    for node in result.graph:
        weight = node.inputs[1] if is_layer(node) else None
        numbers = array(weight)
        if weight is not None and numbers is not None:
            scale = np.abs(numbers).max() / np.float32(127)
            set_array(weight, np.rint(numbers / scale) * scale)
    return result


def sqnr(wanted: NDArray[Any], found: NDArray[Any]) -> float:
    """Signal to noise, in dB."""
    return float(10 * np.log10(np.square(wanted).sum() / np.square(wanted - found).sum()))
