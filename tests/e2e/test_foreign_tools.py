"""QDQ files as other tools spell them, from a small part of each: layers, pools and pairs in their places."""

from __future__ import annotations

import pathlib
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from numpy.typing import NDArray
from onnx_text import parse

import mpqtool
from mpqtool.coverage import lowered_layers
from mpqtool.passes import metadata
from mpqtool.runtime.verify import VerifyResult, verify

RNG = np.random.default_rng(0)
X = RNG.normal(size=(4, 2, 6, 6)).astype(np.float32)
INT4 = ir.DataType.INT4.numpy()

NNCF = """
net (float[N, 2, 6, 6] x) => (float[N, 3] y) {
    xq = QuantizeLinear (x, xs, xz8)
    xd = DequantizeLinear (xq, xs, xz8)
    d0 = DequantizeLinear <axis = 0> (w0, ws, wz)
    c0 = Conv <pads = [1, 1, 1, 1]> (xd, d0, b0)
    r0 = Relu (c0)
    rq = QuantizeLinear (r0, rs, zero)
    rd = DequantizeLinear (rq, rs, zero)
    m = MaxPool <kernel_shape = [2, 2], strides = [2, 2]> (rd)
    d1 = DequantizeLinear <axis = 0> (w1, ws, wz)
    c1 = Conv (m, d1, b1)
    cq = QuantizeLinear (c1, cs, xz8)
    cd = DequantizeLinear (cq, cs, xz8)
    a = GlobalAveragePool (cd)
    aq = QuantizeLinear (a, rs, xz8)
    ad = DequantizeLinear (aq, rs, xz8)
    f = Flatten (ad)
    d2 = DequantizeLinear <axis = 1> (wg, gs, gz)
    mm = MatMul (f, d2)
    y = Add (mm, bg)
}
"""
# Biases and weights as int8 with one scale, a power of two; a Gemm with all its attributes.
QUARK = """
net (float[N, 2, 6, 6] x) => (float[N, 3] y) {
    db = DequantizeLinear (b8, p7, n)
    dg = DequantizeLinear (g8, p5, n)
    d0 = DequantizeLinear (w0, p7, n)
    d1 = DequantizeLinear (w1, p7, n)
    d2 = DequantizeLinear (wg, p5, n)
    xq = QuantizeLinear (x, p5, xz)
    xd = DequantizeLinear (xq, p5, xz)
    c0 = Conv <auto_pad = "NOTSET", pads = [1, 1, 1, 1], group = 1> (xd, d0, db)
    r0 = Relu (c0)
    rq = QuantizeLinear (r0, p5, zero)
    rd = DequantizeLinear (rq, p5, zero)
    c1 = Conv <auto_pad = "NOTSET", group = 1> (rd, d1, db)
    cq = QuantizeLinear (c1, p5, xz)
    cd = DequantizeLinear (cq, p5, xz)
    a = GlobalAveragePool (cd)
    f = Flatten (a)
    aq = QuantizeLinear (f, p7, xz)
    ad = DequantizeLinear (aq, p7, xz)
    h = Gemm <transA = 0, alpha = 1.0, transB = 0, beta = 1.0> (ad, d2, dg)
    yq = QuantizeLinear (h, p5, xz)
    y = DequantizeLinear (yq, p5, xz)
}
"""
# Weights are quantized where they are used, and so are the bounds of a Clip.
AIMET = """
net (float[N, 2, 6, 6] x) => (float[N, 3] y) {
    q0 = QuantizeLinear <axis = 0> (f0, ws, wz4)
    d0 = DequantizeLinear <axis = 0> (q0, ws, wz4)
    xq = QuantizeLinear (x, xs, xz)
    xd = DequantizeLinear (xq, xs, xz)
    c0 = Conv <pads = [1, 1, 1, 1]> (xd, d0, b0)
    cq = QuantizeLinear (c0, rs, xz)
    cd = DequantizeLinear (cq, rs, xz)
    lq = QuantizeLinear (low, ls, zero)
    ld = DequantizeLinear (lq, ls, zero)
    hq = QuantizeLinear (high, ls, zero)
    hd = DequantizeLinear (hq, ls, zero)
    r0 = Clip (cd, ld, hd)
    rq = QuantizeLinear (r0, ls, zero)
    rd = DequantizeLinear (rq, ls, zero)
    q1 = QuantizeLinear <axis = 0> (f1, ws, wz4)
    d1 = DequantizeLinear <axis = 0> (q1, ws, wz4)
    c1 = Conv (rd, d1, b1)
    r1 = Relu (c1)
    oq = QuantizeLinear (r1, cs, zero)
    od = DequantizeLinear (oq, cs, zero)
    a = GlobalAveragePool (od)
    aq = QuantizeLinear (a, cs, zero)
    ad = DequantizeLinear (aq, cs, zero)
    f = Flatten (ad)
    q2 = QuantizeLinear <axis = 1> (fg, gs, gz)
    d2 = DequantizeLinear <axis = 1> (q2, gs, gz)
    y = Gemm (f, d2, bg)
}
"""
# QCDQ: a Clip between the pair says the width, of weights as of activations; a value that is added to another
# is quantized again to the other's scale.
BREVITAS = """
net (float[N, 2, 6, 6] x) => (float[N, 3] y) {
    xq = QuantizeLinear (x, xs, n)
    xd = DequantizeLinear (xq, xs, n)
    k0 = Clip (w0, m7, p7i)
    d0 = DequantizeLinear <axis = 0> (k0, ws, wz)
    c0 = Conv <pads = [1, 1, 1, 1]> (xd, d0, b0)
    r0 = Relu (c0)
    rq = QuantizeLinear (r0, rs4, zero)
    rk = Clip (rq, zero, u15)
    rd = DequantizeLinear (rk, rs4, zero)
    k1 = Clip (w1, m7, p7i)
    d1 = DequantizeLinear <axis = 0> (k1, ws, wz)
    c1 = Conv (rd, d1, b1)
    cq = QuantizeLinear (c1, cs4, n)
    ck = Clip (cq, m8, p7i)
    cd = DequantizeLinear (ck, cs4, n)
    sq = QuantizeLinear (rd, cs4, n)
    sk = Clip (sq, m8, p7i)
    sd = DequantizeLinear (sk, cs4, n)
    s = Add (cd, sd)
    aq = QuantizeLinear (s, cs4, n)
    ak = Clip (aq, m8, p7i)
    ad = DequantizeLinear (ak, cs4, n)
    p = MaxPool <kernel_shape = [6, 6]> (ad)
    f = Flatten (p)
    k2 = Clip (wt, m7, p7i)
    d2 = DequantizeLinear (k2, p7, n)
    y = Gemm <transB = 1> (f, d2, bg)
}
"""


def _int8(*shape: int) -> NDArray[np.int8]:
    return RNG.integers(-127, 128, shape).astype(np.int8)


def _float(*shape: int) -> NDArray[np.float32]:
    return RNG.normal(0, 0.4, shape).astype(np.float32)


NUMBERS: dict[str, NDArray[Any]] = {
    "w0": _int8(3, 2, 3, 3), "w1": _int8(3, 3, 1, 1), "wg": _int8(3, 3), "wt": _int8(3, 3),
    "f0": _float(3, 2, 3, 3), "f1": _float(3, 3, 1, 1), "fg": _float(3, 3),
    "b0": _float(3), "b1": _float(3), "bg": _float(3), "b8": _int8(3), "g8": _int8(3),
    "ws": np.array([0.011, 0.02, 0.013], np.float32), "gs": np.array([0.03, 0.02, 0.01], np.float32),
    "wz": np.zeros(3, np.int8), "gz": np.zeros(3, np.int8), "wz4": np.zeros(3, np.int8).astype(INT4),
    "xs": np.array(0.021, np.float32), "rs": np.array(0.034, np.float32), "cs": np.array(0.09, np.float32),
    "ls": np.array(6 / 255, np.float32), "rs4": np.array(0.31, np.float32), "cs4": np.array(0.4, np.float32),
    "p5": np.array(2.0**-5, np.float32), "p7": np.array(2.0**-7, np.float32),
    "low": np.array(0, np.float32), "high": np.array(6, np.float32),
    "xz": np.array(120, np.uint8), "xz8": np.array(-3, np.int8), "zero": np.array(0, np.uint8),
    "n": np.array(0, np.int8), "m7": np.array(-7, np.int8), "m8": np.array(-8, np.int8),
    "p7i": np.array(7, np.int8), "u15": np.array(15, np.uint8),
}  # fmt: skip


def _model(text: str, opset: int) -> onnx.ModelProto:
    used = {name: numbers for name, numbers in NUMBERS.items() if f" {name}," in text or f" {name})" in text}
    used |= {name: numbers for name, numbers in NUMBERS.items() if f"({name}," in text}
    return ir.to_proto(parse(text, used, opset=opset))


def _proved(proto: onnx.ModelProto, folder: pathlib.Path) -> tuple[ir.Model, VerifyResult]:
    """Lower and verify a file, all layers of which have to become integer."""
    qdq = folder / "qdq.onnx"
    qdq.write_bytes(proto.SerializeToString())
    path = mpqtool.lower(qdq, folder / "int.onnx")
    layers = lowered_layers(path)
    assert (layers.integer, layers.float) == (3, 0), layers.lines()
    return ir.load(path), verify(path, qdq, [{"x": X}], threads=1)


@pytest.mark.parametrize(
    ("text", "opset", "weight_bits", "lsb"),
    [
        pytest.param(NNCF, 17, {"8"}, 1, id="nncf"),
        # powers of two: QDQ and integer arithmetic are both exact
        pytest.param(QUARK, 17, {"8"}, 0, id="quark"),
        pytest.param(AIMET, 21, {"4", "8"}, 1, id="aimet"),
        pytest.param(BREVITAS, 13, {"4"}, 1, id="brevitas"),
    ],
)
def test_every_layer_becomes_integer_and_is_proved(
    text: str, opset: int, weight_bits: set[str], lsb: int, tmp_path: pathlib.Path
) -> None:
    model, proof = _proved(_model(text, opset), tmp_path)

    assert proof.passed, proof.first_different
    assert proof.codes_different == 0
    assert proof.qdq_max_lsb is not None
    assert proof.qdq_max_lsb <= lsb  # rounding at ties
    noted = [node.metadata_props.get(metadata.WEIGHT_BITS, "") for node in model.graph]
    assert {digit for digits in noted for digit in digits} == weight_bits
    # no float operator is left between the first code and the last
    assert [node.op_type for node in model.graph if node.metadata_props.get(metadata.ISLAND)] == []


def test_widths_of_activations_are_those_of_the_clips(tmp_path: pathlib.Path) -> None:
    model, _ = _proved(_model(BREVITAS, 13), tmp_path)

    bits = {
        str(value.name): node.metadata_props.get(metadata.BITS)
        for node in model.graph
        for value in node.outputs
        if str(value.name).endswith(metadata.SUFFIX)
    }
    assert bits["r0.codes"] == bits["c1.codes"] == bits["s.codes"] == "4"


def test_nodes_may_stand_in_any_order_and_parameters_among_the_inputs(tmp_path: pathlib.Path) -> None:
    proto = _model(NNCF, 17)
    nodes = list(proto.graph.node)
    del proto.graph.node[:]
    proto.graph.node.extend(nodes[::-1])
    shape = onnx.helper.make_tensor_value_info("b0", onnx.TensorProto.FLOAT, [3])
    proto.graph.input.append(shape)

    model, proof = _proved(proto, tmp_path)

    assert proof.passed, proof.first_different
    assert [value.name for value in model.graph.inputs] == ["x"]
