from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest
from compare import assert_equivalent, run_onnx
from graphs import quantized
from onnx_text import ops

from mpqtool.passes import metadata
from mpqtool.passes.lower.islands import WriteOutIslandsPass
from mpqtool.passes.pipelines import lower
from mpqtool.runtime.session import LEVELS

X = np.random.default_rng(0).normal(size=(3, 2, 4, 4)).astype(np.float32)


def _model(bits: int = 8) -> ir.Model:
    rng = np.random.default_rng(0)
    text = """
    net (float[N, 2, 4, 4] x) => (float[N, 3] y) {
        c = Conv (x, w)
        s = HardSigmoid (c)
        m = Mul (c, s)
        d = Conv (m, v)
        g = GlobalAveragePool (d)
        f = Flatten (g)
        l = Gemm <transB = 1> (f, u)
        y = Softmax <axis = 1> (l)
    }
    """
    weights = {
        "w": rng.normal(size=(2, 2, 1, 1)),
        "v": rng.normal(size=(2, 2, 1, 1)),
        "u": rng.normal(size=(3, 2)),
    }
    return quantized(text, weights, {"x": X}, activation_bits=bits)


@pytest.mark.parametrize("bits", [4, 8])
def test_computes_the_same_real_numbers(bits: int) -> None:
    names = ["c.codes", "s", "m", "m.codes", "d.codes"]
    before = run_onnx(_model(bits), {"x": X}, expose=names)

    result = WriteOutIslandsPass()(_model(bits))

    assert result.modified
    after = run_onnx(result.model, {"x": X}, expose=names)
    assert_equivalent(before, after, rtol=0, atol=0)
    assert ops(result.model).count("QuantizeLinear") == 1  # of the input


def test_says_what_stays_float_and_why() -> None:
    model = lower(_model())

    notes = {
        n.op_type: n.metadata_props[metadata.ISLAND]
        for n in model.graph
        if metadata.ISLAND in n.metadata_props
    }

    assert notes == {
        "HardSigmoid": "it has no integer form",
        "Mul": "it has no integer form",
        "Softmax": "it has no integer form",
        "Cast": "",
    }


def test_is_the_same_at_every_level() -> None:
    """ONNX Runtime finds nothing to fuse: HardSigmoid and Mul of real values are exact everywhere."""
    model = lower(_model())
    names = ["c.codes", "m.codes", "d.codes", "g.codes"]
    disabled = run_onnx(model, {"x": X}, expose=names)

    for level in LEVELS:
        found = run_onnx(model, {"x": X}, level=level, expose=names)
        for name in names:
            np.testing.assert_array_equal(found[name], disabled[name], err_msg=f"{name} at {level}")


def test_reasons_of_other_passes_are_kept() -> None:
    text = """
    net (float[N, 2, 4, 4] x) => (float[N, 2, H, W] y) {
        p = AveragePool <kernel_shape = [3, 3], pads = [1, 1, 1, 1]> (x)
        y = Conv (p, w)
    }
    """
    qdq = quantized(text, {"w": np.ones((2, 2, 1, 1))}, {"x": X})

    model = lower(qdq)

    pool = next(node for node in model.graph if node.op_type == "AveragePool")
    assert "the padding does not count" in pool.metadata_props[metadata.ISLAND]


def test_a_graph_without_islands_keeps_input_and_output_pairs() -> None:
    text = "net (float[N, 2, 4, 4] x) => (float[N, 2, 4, 4] y) { y = Conv (x, w) }"
    model = lower(quantized(text, {"w": np.ones((2, 2, 1, 1))}, {"x": X}))

    assert ops(model) == ["QuantizeLinear", "QLinearConv", "DequantizeLinear"]
    assert not WriteOutIslandsPass()(model).modified


def test_second_run_changes_nothing() -> None:
    model = WriteOutIslandsPass()(_model()).model

    assert not WriteOutIslandsPass()(model).modified
