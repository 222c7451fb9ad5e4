"""Clips of activations from the moments of what goes into ReLU."""

from __future__ import annotations

__all__ = ["six_sigma_clips"]

import math
from collections.abc import Iterable, Sequence

import torch
from torch import Tensor, fx

from mpqtool.importer.normalization import BatchNorm
from mpqtool.quantizers import ActivationQuantizer

from .batch_norm import output_statistics

_SIGMAS = 6


@torch.no_grad()
def six_sigma_clips(
    network: fx.GraphModule, batches: Iterable[Sequence[Tensor]], quantizers: Sequence[ActivationQuantizer]
) -> dict[str, float]:
    """``max_c(mean_c + 6 sigma_c)`` of the values in front of ReLU, by the name of the value behind it.

    Where BatchNormalization makes them, mean and standard deviation are its beta and ``|gamma|``: Gonugondla
    and Shanbhag, IMPQ, section 4.1. Elsewhere, as behind a sum or a folded layer, they are measured. A Clip,
    as ReLU6 is, has its own upper end if that is lower.

    Args:
        network: With quantizers that have numbers.
        batches: Inputs, positional in graph order.
        quantizers: The wanted ones; what is not behind ReLU or a Clip at 0, or never positive, is left out.
    """
    wanted = {quantizer for quantizer in quantizers if quantizer.nonnegative}
    clips, measured, ends = dict[str, float](), dict[str, str](), dict[str, float]()
    for node in network.graph.nodes:
        quantizer = network.get_submodule(node.target) if node.op == "call_module" else None
        if quantizer not in wanted or node.args[0].meta.get("onnx_op") not in ("Relu", "Clip"):
            continue
        name, source = quantizer.name, node.args[0]
        before, ends[name] = source.args[0], _upper_end(source)
        found = _of_batch_norm(network, before)
        if found is not None:
            clips[name] = found
        elif "onnx_name" in before.meta:
            measured[name] = before.meta["onnx_name"]
    if measured:
        statistics = output_statistics(network, set(measured.values()), batches)
        for name, value in measured.items():
            mean, variance = statistics[value]
            clips[name] = float((mean + _SIGMAS * variance**0.5).max())
    return {name: min(clip, ends[name]) for name, clip in clips.items() if clip > 0}


def _of_batch_norm(network: fx.GraphModule, node: fx.Node) -> float | None:
    if node.op != "call_module" or not isinstance(network.get_submodule(str(node.target)), BatchNorm):
        return None
    tensors = dict(network.named_parameters()) | dict(network.named_buffers())
    gamma, beta = (tensors[source.meta["onnx_name"]] for source in node.args[1:3])  # type: ignore[union-attr]
    return float((beta + _SIGMAS * gamma.abs()).max())


def _upper_end(node: fx.Node) -> float:
    """Where a Clip ends; infinity for ReLU, and where it is computed."""
    bound = node.args[2] if node.meta["onnx_op"] == "Clip" else None
    return float(bound) if isinstance(bound, int | float) else math.inf
