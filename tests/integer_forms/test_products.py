"""Products of activations: the simulation, the reference and ONNX Runtime give the same integers."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest
import torch
from compare import run_onnx
from graphs import calibrated, normal
from onnx_text import ops

from mpqtool.importer import import_graph
from mpqtool.passes import pipelines
from mpqtool.passes.quantize import complete
from mpqtool.passes.quantize.extract import extract
from mpqtool.quantizers.attach import attach
from mpqtool.runtime.reference import Reference
from mpqtool.runtime.session import LEVELS
from mpqtool.simulate import IntegerSimulation

GATED = """
    net (float[N, 3, 6, 6] x) => (float[N, 4] y) {
        c = Conv <pads = [1, 1, 1, 1]> (x, w0)
        g = GlobalAveragePool (c)
        s = Conv (g, w1)
        m = Mul (c, s)
        n = Mul (s, m)
        r = Relu (n)
        p = GlobalAveragePool (r)
        f = Flatten (p)
        y = Gemm <transB = 1> (f, w2)
    }
"""
ATTENTION = """
    net (float[N, 3, 4, 4] x) => (float[N, 3, 4, 4] y)
    <int64[4] heads = {0, 2, 2, 16}, int64[4] whole = {0, 4, 4, 4}> {
        q0 = Conv (x, w3)
        k0 = Conv (x, w4)
        v0 = Conv (x, w5)
        q1 = Reshape (q0, heads)
        k1 = Reshape (k0, heads)
        v = Reshape (v0, heads)
        q = Transpose <perm = [0, 1, 3, 2]> (q1)
        %s
        a = Transpose <perm = [0, 1, 3, 2]> (s)
        o = MatMul (v, a)
        t = Reshape (o, whole)
        u = Add (t, w6)
        z = Add (u, t)
        y = Conv (z, w7)
    }
"""
SCALED = """
    net (float[N, 3, 4, 4] x) => (float[N, 3, 4, 4] y) {
        s = Div (x, eight)
        c = Conv (s, w3, w8)
        r = Relu (c)
        t = Mul (third, r)
        m = MaxPool <kernel_shape = [2, 2], pads = [0, 0, 1, 1]> (t)
        k = Relu (m)
        y = Conv (k, w7)
    }
"""
FORMS = {
    "behind": "m = MatMul (q, k1) s = Div (m, eight)",
    "behind-first": "m = MatMul (q, k1) s = Mul (third, m)",
    "before": "qs = Mul (q, third) ks = Div (k1, eight) s = MatMul (qs, ks)",
    "twice": "qs = Mul (q, third) qt = Mul (qs, third) m = MatMul (qt, k1) s = Relu (m)",
}


def _weights(rng: np.random.Generator) -> dict[str, np.ndarray]:
    shapes = {
        "w0": (5, 3, 3, 3), "w1": (5, 5, 1, 1), "w2": (4, 5), "w3": (4, 3, 1, 1), "w4": (4, 3, 1, 1),
        "w5": (4, 3, 1, 1), "w6": (4, 4, 4), "w7": (3, 4, 1, 1), "w8": (4,),
    }  # fmt: skip
    weights = {name: rng.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}
    return weights | {"eight": np.array([2.83], np.float32), "third": np.array(0.3, np.float32)}


def _model(text: str, rng: np.random.Generator) -> ir.Model:
    weights = {name: numbers for name, numbers in _weights(rng).items() if name in text}
    return normal(text, weights)


@pytest.mark.parametrize("bits", [3, 8])
@pytest.mark.parametrize("name", ["gated", "scaled", *FORMS])
def test_three_engines_agree(rng: np.random.Generator, name: str, bits: int) -> None:
    text = {"gated": GATED, "scaled": SCALED}.get(name) or ATTENTION % FORMS[name]
    model = _model(text, rng)
    size = 6 if name == "gated" else 4
    feeds = {"x": rng.normal(size=(3, 3, size, size)).astype(np.float32)}
    plan = complete(model, calibrated(model, feeds, activation_bits=bits))
    qdq = pipelines.quantize(model, plan)
    lowered = pipelines.lower(qdq)
    reference = Reference(lowered)
    expected = reference.run(feeds)
    assert {"Mul", "Div", "MatMul"} & set(ops(model))
    assert reference.islands == ()
    assert not {"Mul", "Div", "MatMul"} & set(ops(lowered))

    simulation = IntegerSimulation(attach(import_graph(model), plan).eval()).on_arrays(model)(feeds)
    again, read = extract(qdq)
    from_file = IntegerSimulation(attach(import_graph(again), read).eval()).on_arrays(again)(feeds)

    for code in reference.codes:
        assert len(np.unique(expected[code])) > 1
        np.testing.assert_array_equal(simulation[code], expected[code], err_msg=code)
        np.testing.assert_array_equal(from_file[code], expected[code], err_msg=code)
    for level in LEVELS:
        found = run_onnx(lowered, feeds, level=level, expose=reference.codes)
        for code in reference.codes:
            np.testing.assert_array_equal(found[code], expected[code], err_msg=f"{code} at {level}")


def test_gradients_are_those_of_fake_quantization(rng: np.random.Generator) -> None:
    model = _model(GATED, rng)
    x = rng.normal(size=(3, 3, 6, 6)).astype(np.float32)
    plan = complete(model, calibrated(model, {"x": x}, weight_bits=8))
    gradients = []
    for wrap in (lambda network: network, IntegerSimulation):
        network = attach(import_graph(model), plan)
        wrap(network)(torch.from_numpy(x))[0].square().sum().backward()
        gradients.append(dict(network.named_parameters())["w0"].grad.flatten())
    assert torch.nn.functional.cosine_similarity(*gradients, dim=0) > 0.99
