"""Post-training quantization of weights: rounding for the outputs of each layer, and biases that make up."""

from __future__ import annotations

__all__ = ["Reconstruction", "reconstruct", "samples_that_fit"]

import copy
import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import Literal

import torch
from torch import Tensor, fx

from mpqtool.errors import UnsupportedOpError
from mpqtool.passes.arithmetic import code_range
from mpqtool.quantizers import WeightQuantizer

from .lockstep import Lane, WeightedNode, live_bytes, weighted_nodes
from .rounding import Moments, round_for_outputs
from .weight_use import WeightUse

Rounding = Literal["auto", "adaround", "nearest"]

_POSITIONS = 2**14
"""Positions that the moments of a layer are taken from, over all samples; at least four for each input."""
_FINE = 8
"""Bits at which rounding to nearest is as good, and takes no time."""
_MOST_INPUTS = 2**13
"""Weights of a kernel that are rounded for its results: moments take the square of their number."""
_MEMORY = 2**29
"""Bytes that values of all samples may take at one time, both networks together."""


@dataclasses.dataclass(frozen=True)
class Reconstruction:
    """What became of the layers of a network.

    Attributes:
        biases: What is to be added to the bias of each layer, ``(kernels,)``, by the name of its weight.
        left_alone: Why a weight was rounded to nearest, by name.
    """

    biases: dict[str, Tensor]
    left_alone: dict[str, str]


@torch.no_grad()
def reconstruct(
    network: fx.GraphModule,
    chunks: Sequence[Sequence[Tensor]],
    *,
    rounding: Rounding = "auto",
    correct_bias: bool = True,
    on_layer: Callable[[int], object] = lambda count: None,
) -> Reconstruction:
    """Quantize the weights of a network layer by layer, each on what the quantized ones before it give.

    Weights are rounded by ``round_for_outputs`` or to nearest. The bias then takes the mean of what is still
    missing, over samples and positions: ``b + E[y - y']``, as measured, which is right at padded borders too.

    Source: Nagel et al., Data-free quantization through weight equalization and bias correction, ICCV 2019,
    section 4.2, the empirical form; ``rounding.py`` has that of AdaRound.

    Args:
        network: With attached quantizers that have their scales, BatchNormalization folded. Its weights
            become ``scale * code``; its biases are left alone.
        chunks: Inputs of the samples, positional in graph order, in parts that operators take at once.
        rounding: ``adaround``, ``nearest``, or ``auto``: nearest for layers of 8 bits.
        correct_bias: Whether biases are to be changed.
        on_layer: Is told 1 after each layer.

    Returns:
        The biases, and what could not be done.
    """
    network.eval()
    reference = copy.deepcopy(network)
    floats = [Lane(reference, chunk, quantized=False) for chunk in chunks]
    quantized = [Lane(network, chunk, quantized=True) for chunk in chunks]
    weighted, left_alone = _by_node(network)
    parameters = dict(network.named_parameters())
    biases: dict[str, Tensor] = {}
    for of_float, of_quantized in zip(reference.graph.nodes, network.graph.nodes, strict=True):
        for lane in floats:
            lane.advance(of_float)
        layer = weighted.get(of_quantized)
        if layer is not None:
            results = [lane.env[of_float] for lane in floats]
            uses = _uses(quantized, layer, results, left_alone)
            if uses and _is_fitted(layer.quantizer, rounding) and _is_small(uses[0], left_alone):
                weight = _round(parameters[layer.quantizer.name], layer.quantizer, uses, results)
                for lane in quantized:  # they have the nearest codes
                    lane.env[layer.weight] = weight
        for lane in quantized:
            lane.advance(of_quantized)
        if layer is not None:
            if uses and correct_bias:
                values = [lane.env[of_quantized] for lane in quantized]
                missing = _mean_missing(results, values, uses[0].trailing)
                biases[layer.quantizer.name] = missing
                for lane, value in zip(quantized, values, strict=True):
                    lane.env[of_quantized] = value + missing.reshape(-1, *[1] * (uses[0].trailing - 1))
            on_layer(1)
        for lane, node in (*((lane, of_float) for lane in floats), *((q, of_quantized) for q in quantized)):
            lane.forget(node)
    return Reconstruction(biases, left_alone)


def samples_that_fit(network: fx.GraphModule, inputs: Sequence[Tensor]) -> int:
    """How many samples ``reconstruct`` can take so that memory stays bounded, at least 1.

    Args:
        network: As for ``reconstruct``.
        inputs: Of some samples.
    """
    sample = live_bytes(network, inputs) / len(inputs[0])
    return max(1, int(_MEMORY / max(2 * sample, 1)))


def _by_node(network: fx.GraphModule) -> tuple[dict[fx.Node, WeightedNode], dict[str, str]]:
    """The layers, and which weights cannot be fitted to one layer."""
    found = weighted_nodes(network)
    names = [layer.quantizer.name for layer in found]
    shared = {name: "several layers use it" for name in names if names.count(name) > 1}
    return {layer.node: layer for layer in found if layer.quantizer.name not in shared}, shared


def _is_fitted(quantizer: WeightQuantizer, rounding: Rounding) -> bool:
    """Whether a layer's weights are to be rounded for its results."""
    return rounding == "adaround" or (rounding == "auto" and int(quantizer.bits.min()) < _FINE)


def _uses(
    lanes: Sequence[Lane], layer: WeightedNode, results: Sequence[Tensor], left_alone: dict[str, str]
) -> list[WeightUse]:
    """What each lane makes of a weight; nothing if that is not known, or no number."""
    try:
        uses = [lane.use(layer) for lane in lanes]
    except UnsupportedOpError:
        left_alone[layer.quantizer.name] = "what uses it is no Conv or Gemm"
        return []
    if not all(bool(x.isfinite().all()) for x in (*results, *(use.x for use in uses))):
        left_alone[layer.quantizer.name] = "its values become infinite or NaN"
        return []
    return uses


def _is_small(use: WeightUse, left_alone: dict[str, str]) -> bool:
    """Whether there is memory for the moments of a layer; its bias is corrected in any case."""
    inputs = math.prod(use.kernel[1:])
    if inputs > _MOST_INPUTS:
        left_alone[use.name] = (
            f"kernels of {inputs:,} weights need too much memory, {_MOST_INPUTS:,} are allowed"
        )
    return inputs <= _MOST_INPUTS


def _round(
    weight: Tensor, quantizer: WeightQuantizer, uses: Sequence[WeightUse], results: Sequence[Tensor]
) -> Tensor:
    """Make the weight of a layer ``scale * code``, in place; what the layer multiplies by."""
    ranges = torch.tensor([code_range(int(bits), quantizer.grid) for bits in quantizer.bits])
    codes = round_for_outputs(weight, quantizer.scale, ranges[:, 0], ranges[:, 1], _moments(uses, results))
    weight.copy_(codes * quantizer.scale.view(-1, *[1] * (weight.ndim - 1)))
    quantized: Tensor = quantizer(weight)
    return quantized


def _moments(uses: Sequence[WeightUse], results: Sequence[Tensor]) -> Moments:
    """Of all chunks, at as many positions as are enough."""
    enough = max(_POSITIONS, 4 * math.prod(uses[0].kernel[1:]))
    rows = sum(_rows(use.x, use.trailing).shape[1] if use.window is None else len(use.x) for use in uses)
    generator = torch.Generator().manual_seed(0)
    total: Moments | None = None
    for use, y in zip(uses, results, strict=True):
        of_rows = use.results(_rows(use.added(y), use.trailing))  # (samples, groups, kernels, positions)
        positions = of_rows.shape[3]
        share = min(positions, -(-enough // rows) if use.window is not None else positions)
        at = torch.randperm(positions, generator=generator)[:share] if share < positions else None
        x = use.inputs(_rows(use.x, use.trailing), at)
        of_rows = of_rows if at is None else of_rows[..., at]
        found = Moments.of(*(part.movedim(0, 2).flatten(2) for part in (x, of_rows)))
        if total is None:
            total = found
        else:
            total.add(found)
    assert total is not None  # there is a chunk
    return total


def _rows(x: Tensor, trailing: int) -> Tensor:
    """As ``WeightUse`` takes them: all rows of a matrix are of one sample, each picture is a sample."""
    return x.reshape(1, -1, x.shape[-1]) if trailing == 1 else x.reshape(-1, 1, *x.shape[-trailing:])


def _mean_missing(results: Sequence[Tensor], values: Sequence[Tensor], trailing: int) -> Tensor:
    """The mean of ``results - values`` over samples and positions, ``(kernels,)``."""
    axis = results[0].ndim - trailing
    total = torch.zeros(results[0].shape[axis], dtype=torch.float64)
    for y, z in zip(results, values, strict=True):
        total += (y - z).movedim(axis, -1).flatten(0, -2).sum(0, dtype=torch.float64)
    return (total / sum(y.numel() // len(total) for y in results)).float()
