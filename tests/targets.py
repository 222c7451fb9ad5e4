"""QDQ models, and all targets held against the reference: three ways to write down the same integers."""

from __future__ import annotations

__all__ = ["TEXTS", "Arrays", "check", "network", "qdq_and_feeds"]

from typing import Any

import numpy as np
import onnx_ir as ir
from compare import run_onnx
from graphs import calibrated, normal, residual_cnn
from numpy.typing import NDArray

from mpqtool.passes import pipelines
from mpqtool.runtime.reference import Reference
from mpqtool.runtime.session import LEVELS

Arrays = dict[str, NDArray[Any]]

TEXTS = {
    "pools": """
        net (float[N, 2, 8, 8] x) => (float[N, 3] y) {
            c = Conv <pads = [1, 0, 0, 1]> (x, w0)
            p = AveragePool <kernel_shape = [2, 2], strides = [2, 2]> (c)
            m = MaxPool <kernel_shape = [2, 2]> (p)
            f = Flatten (m)
            y = Gemm <transB = 1> (f, w1, b1)
        }""",
    "concat-clip": """
        net (float[N, 2, 8, 8] x) => (float[N, 3] y) <float lo = {0}, float hi = {1.5}> {
            c = Conv <pads = [1, 1, 1, 1]> (x, w0)
            k = Clip (c, lo, hi)
            d = Conv <pads = [1, 1, 1, 1], group = 2> (x, w2)
            j = Concat <axis = 1> (k, d)
            g = GlobalAveragePool (j)
            f = Flatten (g)
            y = Gemm <transB = 1> (f, w3)
        }""",
    "functions-and-gates": """
        net (float[N, 2, 8, 8] x) => (float[N, 3] y) <int64[3] rows = {0, 4, 64}> {
            c = Conv <pads = [1, 1, 1, 1]> (x, w0)
            h = HardSwish (c)
            g = GlobalAveragePool (h)
            e = Conv (g, w4)
            s = Sigmoid (e)
            m = Mul (h, s)
            l = LeakyRelu <alpha = 0.1> (m)
            t = Tanh (l)
            r = Reshape (t, rows)
            u = Transpose <perm = [0, 2, 1]> (r)
            q = MatMul (r, u)
            o = Softmax <axis = 2> (q)
            f = Flatten (o)
            y = Gemm <transB = 1> (f, w1)
        }""",
}


def network(rng: np.random.Generator, name: str) -> ir.Model:
    """A network of ``TEXTS``, or ``residual``."""
    shapes = {
        "w0": (4, 2, 3, 3),
        "w1": (3, 16),
        "b1": (3,),
        "w2": (2, 1, 3, 3),
        "w3": (3, 6),
        "w4": (4, 4, 1, 1),
    }
    weights = {key: rng.normal(size=shape).astype(np.float32) for key, shape in shapes.items()}
    return residual_cnn(rng) if name == "residual" else normal(TEXTS[name], weights)


def qdq_and_feeds(rng: np.random.Generator, name: str, **options: Any) -> tuple[ir.Model, Arrays]:
    model = network(rng, name)
    feeds: Arrays = {"x": rng.normal(size=(5, 2, 8, 8)).astype(np.float32)}
    return pipelines.quantize(model, calibrated(model, feeds, **options)), feeds


def check(qdq: ir.Model, feeds: Arrays, *, targets: tuple[str, ...] = ("standard", "cuda")) -> None:
    """Every code and every real output, at every optimisation level, with the codes shown and not."""
    reference = Reference(pipelines.lower(qdq))
    outputs = {str(value.name) for value in qdq.graph.outputs}
    wanted = {*reference.codes, *reference.exact_outputs}
    assert len(wanted) > 1
    for target in targets:
        model = pipelines.lower(qdq, target=target)
        for level in LEVELS:
            found = run_onnx(model, feeds, level=level, expose=sorted(wanted - outputs))
            given_ = {name: found[name].astype(np.uint8) for name in reference.islands}
            expected = reference.run(feeds, given_)
            for name in wanted - set(reference.islands):
                np.testing.assert_array_equal(found[name], expected[name], err_msg=f"{name} {target} {level}")
            for name, values in run_onnx(model, feeds, level=level).items():
                np.testing.assert_array_equal(values, found[name], err_msg=f"{name} {target} {level} alone")
