"""A small Swish network with BatchNormalization and a residual block, and data that it can learn."""

from __future__ import annotations

__all__ = ["swish_network", "swish_split"]

import numpy as np
import onnx_ir as ir
from onnx_text import parse

from mpqtool.data import Split

CLASSES = 3

_TEXT = """
    net (float[N, 2, 6, 6] x) => (float[N, 3] y) {
        c0 = Conv <pads = [1, 1, 1, 1]> (x, w0)
        n0 = BatchNormalization (c0, g0, b0, m0, v0)
        q0 = Sigmoid (n0)
        s0 = Mul (n0, q0)
        c1 = Conv <pads = [1, 1, 1, 1], strides = [2, 2]> (s0, w1)
        n1 = BatchNormalization (c1, g1, b1, m1, v1)
        s1 = HardSwish (n1)
        c2 = Conv <pads = [1, 1, 1, 1]> (s1, w2)
        n2 = BatchNormalization (c2, g2, b2, m2, v2)
        a = Add (n2, s1)
        s2 = HardSwish (a)
        c3 = Conv <pads = [1, 1, 1, 1], group = 4> (s2, w3, bias3)
        r = Relu (c3)
        p = GlobalAveragePool (r)
        f = Flatten (p)
        y = Gemm <transB = 1> (f, w4, bias4)
    }
"""


def swish_network(rng: np.random.Generator) -> ir.Model:
    """Not normalized. Swish values go into padded convolutions; that of ``s1``, also into a sum."""
    weights = {
        "w0": rng.normal(size=(4, 2, 3, 3)) / 4,
        "w1": rng.normal(size=(4, 4, 3, 3)) / 6,
        "w2": rng.normal(size=(4, 4, 3, 3)) / 6,
        "w3": rng.normal(size=(4, 1, 3, 3)) / 3,
        "bias3": 0.1 * rng.normal(size=4),
        "w4": rng.normal(size=(CLASSES, 4)),
        "bias4": np.zeros(CLASSES),
    }
    for layer in range(3):
        weights |= {
            f"g{layer}": rng.uniform(0.5, 1.5, 4),
            f"b{layer}": 0.2 * rng.normal(size=4),
            f"m{layer}": 0.1 * rng.normal(size=4),
            f"v{layer}": rng.uniform(0.5, 1.5, 4),
        }
    return parse(_TEXT, weights)


def swish_split(rng: np.random.Generator, samples: int) -> Split:
    """The class is where the image is bright."""
    labels = rng.integers(0, CLASSES, samples)
    images = rng.normal(size=(samples, 2, 6, 6))
    images += 2 * (np.arange(6) // 2 == labels[:, None])[:, None, :, None]
    return Split({"x": images.astype(np.float32)}, labels)
