"""QDQ files of onnxruntime.quantization, over the options that people choose."""

from __future__ import annotations

import logging
import pathlib
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest
from numpy.typing import NDArray
from onnx_text import parse
from onnxruntime.quantization import (
    CalibrationDataReader,
    CalibrationMethod,
    QuantFormat,
    QuantType,
    quantize_static,
)
from onnxruntime.quantization.shape_inference import quant_pre_process

import mpqtool
from mpqtool.coverage import LoweredLayers, lowered_layers
from mpqtool.errors import ModelError
from mpqtool.passes import metadata
from mpqtool.runtime.verify import VerifyResult, verify

Array = NDArray[Any]

NETWORK = """
net (float[N, 3, 10, 10] x) => (float[N, 5] y) {
    c0 = Conv <pads = [1, 1, 1, 1]> (x, w0, b0)
    r0 = Relu (c0)
    d = Conv <pads = [1, 1, 1, 1], group = 8> (r0, wd, bd)
    dr = Clip (d, zero, six)
    p = Conv (dr, wp, bp)
    a = Add (p, r0)
    ar = Relu (a)
    m = MaxPool <kernel_shape = [2, 2], strides = [2, 2]> (ar)
    l0 = Conv (m, w1, b1)
    l = LeakyRelu <alpha = 0.1> (l0)
    s0 = Conv (m, w2, b2)
    s = Sigmoid (s0)
    k = Concat <axis = 1> (l, s)
    ap = AveragePool <kernel_shape = [2, 2]> (k)
    g = GlobalAveragePool (ap)
    e1 = Conv (g, we1, be1)
    e1r = Relu (e1)
    e2 = Conv (e1r, we2, be2)
    es = Sigmoid (e2)
    mu = Mul (ap, es)
    gp = GlobalAveragePool (mu)
    f = Flatten (gp)
    h = Gemm (f, wg, bg)
    hr = Relu (h)
    mm = MatMul (hr, wm)
    y = Add (mm, bm)
}
"""
SHAPES = {
    "w0": (8, 3, 3, 3), "b0": (8,), "wd": (8, 1, 3, 3), "bd": (8,), "wp": (8, 8, 1, 1), "bp": (8,),
    "w1": (6, 8, 1, 1), "b1": (6,), "w2": (6, 8, 1, 1), "b2": (6,), "we1": (4, 12, 1, 1), "be1": (4,),
    "we2": (12, 4, 1, 1), "be2": (12,), "wg": (12, 10), "bg": (10,), "wm": (10, 5), "bm": (5,),
}  # fmt: skip
BLOCK = """
net (float[N, 7, 8] x) => (float[N, 7, 5] y) {
    q0 = MatMul (x, wq) q = Add (q0, bq) k = MatMul (x, wk) v = MatMul (x, wv)
    t = Transpose <perm = [0, 2, 1]> (k)
    s = MatMul (q, t) p = Softmax <axis = -1> (s) o = MatMul (p, v)
    a = Add (o, x)
    h0 = MatMul (a, w1) h1 = Add (b1, h0) h = Relu (h1)
    z = MatMul (h, w2) y = Add (z, b2)
}
"""
BLOCK_SHAPES = {
    "wq": (8, 8),
    "bq": (8,),
    "wk": (8, 8),
    "wv": (8, 8),
    "w1": (8, 16),
    "b1": (16,),
    "w2": (16, 5),
    "b2": (5,),
}

# Codes of the integer file against those of the QDQ file as it is written: rounding at ties, carried on by
# what follows. A wrong zero point, shift or scale changes nearly all.
FEW = 0.03


class _Samples(CalibrationDataReader):
    def __init__(self, x: Array) -> None:
        self._left = [{"x": x[i : i + 8]} for i in range(0, len(x), 8)]

    def get_next(self) -> dict[str, Array] | None:
        return self._left.pop() if self._left else None


def _float_file(
    folder: pathlib.Path, text: str, shapes: dict[str, tuple[int, ...]], opset: int
) -> pathlib.Path:
    rng = np.random.default_rng(0)
    weights = {name: rng.normal(0, 0.4, shape).astype(np.float32) for name, shape in shapes.items()}
    weights |= {"zero": np.array(0, np.float32), "six": np.array(6, np.float32)} if "six" in text else {}
    path = folder / f"float{opset}.onnx"
    ir.save(parse(text, weights, opset=opset), path)
    return path


def _samples(*shape: int) -> Array:
    return np.random.default_rng(1).normal(size=(16, *shape)).astype(np.float32)


def _quantize(source: pathlib.Path, x: Array, **options: Any) -> pathlib.Path:
    path = source.with_name("qdq.onnx")
    logging.disable(logging.WARNING)
    try:
        quantize_static(str(source), str(path), _Samples(x), **({"quant_format": QuantFormat.QDQ} | options))
    finally:
        logging.disable(logging.NOTSET)
    return path


def _lowered(qdq: pathlib.Path, x: Array) -> tuple[LoweredLayers, VerifyResult]:
    path = mpqtool.lower(qdq, qdq.with_name("int.onnx"))
    return lowered_layers(path), verify(path, qdq, [{"x": x}], threads=1)


S8, U8 = QuantType.QInt8, QuantType.QUInt8
CASES = {
    "default": {},
    "per-channel": {"per_channel": True},
    "u8s8": {"activation_type": U8, "weight_type": S8, "per_channel": True},
    "u8u8": {"activation_type": U8, "weight_type": U8},
    "u8u8-per-channel": {"activation_type": U8, "weight_type": U8, "per_channel": True},
    "symmetric": {"extra_options": {"ActivationSymmetric": True, "WeightSymmetric": True}},
    "asymmetric-weights": {"extra_options": {"WeightSymmetric": False}, "per_channel": True},
    "reduce-range": {"activation_type": U8, "weight_type": S8, "per_channel": True, "reduce_range": True},
    "entropy": {"calibrate_method": CalibrationMethod.Entropy},
    "contrib-operators": {"extra_options": {"UseQDQContribOps": True}},
    "dedicated-pairs": {"extra_options": {"DedicatedQDQPair": True}, "per_channel": True},
    "float-weights": {"extra_options": {"AddQDQPairToWeight": True}, "per_channel": True},
    "float-biases": {"extra_options": {"QuantizeBias": False}, "per_channel": True},
    "relu-kept": {"extra_options": {"QDQKeepRemovableActivations": True, "ForceQuantizeNoInputCheck": True}},
    "layers-alone": {"op_types_to_quantize": ["Conv", "Gemm", "MatMul"]},
    "int4-weights": {"activation_type": U8, "weight_type": QuantType.QInt4, "per_channel": True, "opset": 21},
    "uint4-weights": {"activation_type": U8, "weight_type": QuantType.QUInt4, "opset": 21},
    "opset-13": {"per_channel": True, "opset": 13},
    "pre-processed": {"per_channel": True, "pre_process": True},
}


@pytest.mark.parametrize("case", CASES)
def test_all_layers_become_integer_and_every_code_is_proved(case: str, tmp_path: pathlib.Path) -> None:
    options = dict(CASES[case])
    source = _float_file(tmp_path, NETWORK, SHAPES, options.pop("opset", 17))
    x = _samples(3, 10, 10)
    if options.pop("pre_process", False):
        quant_pre_process(str(source), str(source))
    qdq = _quantize(source, x, **options)

    layers, proof = _lowered(qdq, x)

    assert (layers.integer, layers.float) == (9, 0), layers.lines()
    assert layers.mac_share_integer == 1.0
    assert proof.passed, proof.first_different
    assert proof.codes_different == 0
    assert len(proof.engines) == 4
    assert proof.qdq_rate is not None
    assert proof.qdq_rate < FEW


@pytest.mark.parametrize("options", [{"per_channel": True}, {"activation_type": U8, "weight_type": U8}])
def test_a_transformer_block_becomes_integer(options: dict[str, Any], tmp_path: pathlib.Path) -> None:
    x = _samples(7, 8)
    qdq = _quantize(_float_file(tmp_path, BLOCK, BLOCK_SHAPES, 17), x, **options)

    layers, proof = _lowered(qdq, x)

    assert (layers.integer, layers.float) == (5, 0), layers.lines()
    assert proof.passed, proof.first_different
    assert proof.qdq_rate is not None
    assert proof.qdq_rate < FEW


def test_four_bit_weights_are_packed(tmp_path: pathlib.Path) -> None:
    source = _float_file(tmp_path, NETWORK, SHAPES, 21)
    qdq = _quantize(source, _samples(3, 10, 10), weight_type=QuantType.QInt4, activation_type=U8)

    lowered = ir.load(mpqtool.lower(qdq, tmp_path / "int.onnx"))

    widths = {node.metadata_props.get(metadata.WEIGHT_BITS) for node in lowered.graph} - {None}
    assert widths
    assert {digit for width in widths if width for digit in width} == {"4"}
    assert any(node.domain == metadata.DOMAIN for node in lowered.graph)


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"activation_type": QuantType.QUInt16, "weight_type": S8}, "its input has uint16 codes"),
        ({"activation_type": QuantType.QInt16, "weight_type": S8}, "its input has int16 codes"),
    ],
)
def test_what_stays_float_has_its_reason(
    options: dict[str, Any], reason: str, tmp_path: pathlib.Path
) -> None:
    x = _samples(3, 10, 10)
    qdq = _quantize(_float_file(tmp_path, NETWORK, SHAPES, 21), x, **options)

    layers, _ = _lowered(qdq, x)  # ONNX Runtime computes 16 bits differently at its levels: no proof

    assert layers.integer == 0
    assert any(reason in line for line in layers.lines())


def test_a_file_that_computes_in_integers_is_refused(tmp_path: pathlib.Path) -> None:
    source = _float_file(tmp_path, NETWORK, SHAPES, 17)
    path = _quantize(
        source, _samples(3, 10, 10), quant_format=QuantFormat.QOperator, activation_type=U8, weight_type=S8
    )

    with pytest.raises(ModelError, match=r"computes in integers already.*QuantFormat\.QDQ"):
        mpqtool.lower(path, tmp_path / "int.onnx")


def test_verify_says_that_the_simulation_is_left_out(
    tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from mpqtool.reporter import Reporter

    x = _samples(3, 10, 10)
    qdq = _quantize(_float_file(tmp_path, NETWORK, SHAPES, 17), x, per_channel=True)
    path = mpqtool.lower(qdq, tmp_path / "int.onnx")
    np.savez(tmp_path / "data.npz", x=x)

    result = mpqtool.verify(path, against=qdq, data=tmp_path / "data.npz", reporter=Reporter())

    assert result.passed
    assert "simulation" not in result.engines
    assert "simulation is left out" in capsys.readouterr().err
