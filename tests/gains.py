"""Small networks with quantizers, and their noise gains by one backward pass per sample and class."""

from __future__ import annotations

__all__ = ["CLASSES", "KINDS", "Kind", "brute_force", "network", "samples"]

import dataclasses
from collections.abc import Sequence

import numpy as np
import torch
from graphs import calibrated, normal
from torch import Tensor, fx

from mpqtool.importer import import_graph
from mpqtool.quantizers.attach import attach, weight_quantizers

CLASSES = 4


@dataclasses.dataclass(frozen=True)
class Kind:
    """A first layer: the shapes of a sample and of the weight, operators, and how many numbers they give."""

    x: tuple[int, ...]
    w: tuple[int, ...]
    layer: str
    flat: int


KINDS = {
    "conv": Kind((2, 6, 6), (4, 2, 3, 3), "c = Conv <pads = [1, 1, 1, 1], strides = [2, 2]> (x, w)", 36),
    "groups": Kind((4, 6, 6), (4, 2, 3, 3), "c = Conv <group = 2> (x, w)", 64),
    "depthwise": Kind((3, 6, 6), (6, 1, 3, 3), "c = Conv <group = 3, dilations = [2, 1]> (x, w)", 48),
    "uneven": Kind((2, 6, 6), (4, 2, 3, 3), "c = Conv <pads = [1, 0, 0, 2], strides = [1, 2]> (x, w)", 60),
    "same": Kind((2, 6, 6), (4, 2, 3, 3), 'c = Conv <auto_pad = "SAME_LOWER", strides = [2, 2]> (x, w)', 36),
    "line": Kind((2, 9), (4, 2, 3), "c = Conv <pads = [1, 1], strides = [2]> (x, w)", 20),
    "volume": Kind((2, 4, 3, 4), (4, 2, 2, 2, 2), "c = Conv <pads = [1, 0, 1, 0, 1, 1]> (x, w)", 240),
    "windows": Kind(
        (4, 5, 5), (4, 2, 3, 3),
        "s = Constant <value = int64[4] {-1, 2, 5, 5}> () p = Reshape (x, s) c = Conv (p, w)", 72,
    ),
    "tokens": Kind((3, 5), (5, 4), "c = MatMul (x, w)", 12),
    "pair": Kind((2, 40), (40, 20), "c = MatMul (x, w)", 40),  # few positions, many inputs
    "long": Kind((12, 3), (3, 4), "c = MatMul (x, w)", 48),
    "few": Kind((20, 2, 2), (6, 20, 3, 3), "c = Conv <pads = [1, 1, 1, 1]> (x, w)", 24),
    "sequence": Kind(
        (3, 5), (5, 4),
        "s = Transpose <perm = [1, 0, 2]> (x) m = MatMul (s, w) q = Relu (m) "
        "c = Transpose <perm = [1, 0, 2]> (q)", 12,
    ),
    "between": Kind(
        (2, 3, 5), (5, 4),
        "s = Transpose <perm = [1, 0, 2, 3]> (x) m = MatMul (s, w) q = Relu (m) "
        "c = Transpose <perm = [1, 0, 2, 3]> (q)", 24,
    ),
    "strided": Kind(
        (2, 2, 5, 5), (4, 2, 3, 3),
        "s = Transpose <perm = [1, 0, 2, 3, 4]> (x) k = Constant <value = int64[4] {-1, 2, 5, 5}> () "
        "p = Reshape (s, k) m = Conv (p, w) l = Constant <value = int64[5] {2, -1, 4, 3, 3}> () "
        "q = Reshape (m, l) c = Transpose <perm = [1, 0, 2, 3, 4]> (q)", 72,
    ),
}  # fmt: skip


def samples(count: int, *, kind: str = "conv", seed: int = 0) -> Tensor:
    """Inputs of a network."""
    return torch.randn(count, *KINDS[kind].x, generator=torch.Generator().manual_seed(seed))


def network(
    kind: str = "conv", *, classes: int = CLASSES, tail: str = "", output: str = "z"
) -> fx.GraphModule:
    """A layer, a ReLU and a Gemm that gives ``z``, imported, with quantizers of 8 bits."""
    first, rng = KINDS[kind], np.random.default_rng(0)
    text = f"""
        net (float[N, {", ".join(map(str, first.x))}] x) => (float[N, {classes}] {output}) {{
            {first.layer}
            r = Relu (c)
            t = Constant <value = int64[2] {{-1, {first.flat}}}> ()
            f = Reshape (r, t)
            z = Gemm <transB = 1> (f, v, b)
            {tail}
        }}
    """
    weights = {
        "w": rng.normal(size=first.w), "v": rng.normal(size=(classes, first.flat)) / np.sqrt(first.flat),
        "b": rng.normal(size=classes),
    }  # fmt: skip
    model = normal(text, weights)
    plan = calibrated(model, {"x": samples(400, kind=kind).numpy()}, weight_bits=8)
    module = attach(import_graph(model), plan).eval()
    parameters = dict(module.named_parameters())
    for quantizer in weight_quantizers(module):
        quantizer.fit(parameters[quantizer.name])
    return module


def brute_force(
    module: fx.GraphModule, inputs: Tensor, *, ranks: Sequence[int], floor: float = 0.0
) -> dict[str, Tensor]:
    """Equations 2 and 3 of IMPQ for the weights, ``(samples, kernels)``, by the gradients of parameters.

    Args:
        module: Any network with class logits.
        inputs: ``(samples, ...)``.
        ranks: Of the classes that are summed over; 1 is the runner-up.
        floor: What margins count as at least.
    """
    parameters = {name: p for name, p in module.named_parameters() if p.requires_grad and p.ndim > 1}
    found: dict[str, list[Tensor]] = {name: [] for name in parameters}
    for sample in inputs.split(1):
        logits = module(sample)[0][0]
        order = logits.argsort(descending=True).tolist()
        total = {name: torch.zeros(len(p)) for name, p in parameters.items()}
        for rank in ranks:
            margin = logits[order[0]] - logits[order[rank]]
            grads = torch.autograd.grad(margin, list(parameters.values()), retain_graph=True)
            for name, grad in zip(parameters, grads, strict=True):
                kernels = grad.square().flatten(1).sum(1)
                total[name] += kernels / (24 * max(float(margin.detach()), floor) ** 2)
        for name, gain in total.items():
            found[name].append(gain)
    return {name: torch.stack(gains) for name, gains in found.items()}
