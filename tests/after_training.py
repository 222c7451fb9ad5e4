"""Small networks to be quantized without training: one with every kind of layer, and others by their text."""

from __future__ import annotations

__all__ = ["EVERY_LAYER", "SHARED", "SHARED_SHAPES", "Network", "every_layer", "network_of", "shaped"]

import dataclasses
from typing import Any

import numpy as np
import onnx_ir as ir
import torch
from graphs import calibrated, normal
from numpy.typing import NDArray
from torch import Tensor, fx

from mpqtool.importer import import_graph
from mpqtool.passes.plan import Grid, Plan
from mpqtool.passes.quantize import complete
from mpqtool.quantizers.attach import attach

EVERY_LAYER = """
    net (float[N, 3, 9, 9] x) => (float[N, 25, 5] y) {
        c0 = Conv <pads = [1, 1, 1, 1]> (x, w0, b0)
        r0 = Relu (c0)
        c1 = Conv <pads = [0, 1, 2, 1], strides = [2, 2], group = 6> (r0, w1)
        r1 = Relu (c1)
        c2 = Conv <dilations = [2, 2], pads = [2, 2, 2, 2], group = 2> (r1, w2, b2)
        a = Add (c2, r1)
        f = Reshape (a, rows)
        t = Transpose <perm = [0, 2, 1]> (f)
        m = MatMul (t, w3)
        y = Add (m, b3)
    }"""
"""Pads at one end more than at the other, strides, groups, dilations, and a matrix times sequences."""
_SHAPES = {
    "w0": (6, 3, 3, 3),
    "b0": (6,),
    "w1": (6, 1, 3, 3),
    "w2": (6, 3, 3, 3),
    "b2": (6,),
    "w3": (6, 5),
    "b3": (5,),
}

SHARED = """
    net (float[N, 2, 6, 6] x) => (float[N, 2, 6, 6] y) {
        c = Conv <pads = [1, 1, 1, 1]> (x, w0, b0)
        r = Relu (c)
        d = Conv <pads = [1, 1, 1, 1]> (r, w0)
        y = Conv (d, w1)
    }"""
"""Two layers have one weight."""
SHARED_SHAPES = {"w0": (2, 2, 3, 3), "b0": (2,), "w1": (2, 2, 1, 1)}


@dataclasses.dataclass(frozen=True)
class Network:
    """A network in all its forms.

    Attributes:
        model: Folded normal graph.
        plan: With all numbers.
        inputs: Samples.
    """

    model: ir.Model
    plan: Plan
    inputs: Tensor

    @property
    def attached(self) -> fx.GraphModule:
        """It with quantizers, made anew."""
        return attach(import_graph(self.model), self.plan).eval()

    @property
    def plain(self) -> fx.GraphModule:
        """It in float, made anew."""
        return import_graph(self.model).eval()

    def chunks(self, *sizes: int) -> list[tuple[Tensor, ...]]:
        """The samples in parts of these sizes; all at once without any."""
        return [(part,) for part in self.inputs.split(list(sizes) or [len(self.inputs)])]


def network_of(
    text: str, weights: dict[str, NDArray[Any]], x: NDArray[Any], *, bits: int = 3, grid: Grid = Grid.FULL
) -> Network:
    """The network of a text, with weights of few bits, and ranges that cover the inputs."""
    model = normal(text, weights)
    x = x.astype(np.float32)
    plan = complete(model, calibrated(model, {"x": x}, weight_bits=bits, grid=grid))
    return Network(model, plan, torch.from_numpy(x))


def shaped(rng: np.random.Generator, shapes: dict[str, tuple[int, ...]]) -> dict[str, NDArray[np.float32]]:
    """Weights of these shapes that keep the power of values, and biases."""
    return {
        name: (rng.normal(size=shape) / np.sqrt(max(1, np.prod(shape[1:])))).astype(np.float32)
        for name, shape in shapes.items()
    }


def every_layer(rng: np.random.Generator, *, samples: int = 24, bits: int = 3) -> Network:
    """The network of ``EVERY_LAYER``; neighbouring numbers of its inputs are alike."""
    noise = rng.normal(size=(samples, 3, 12, 12)).cumsum(2).cumsum(3)
    x = noise[:, :, 3:, 3:] - noise[:, :, :-3, 3:] - noise[:, :, 3:, :-3] + noise[:, :, :-3, :-3]
    rows = {"rows": np.array([0, 6, 25])}
    return network_of(EVERY_LAYER, shaped(rng, _SHAPES) | rows, x / 3, bits=bits)
