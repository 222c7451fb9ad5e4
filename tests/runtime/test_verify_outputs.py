"""Verification of files whose outputs are of other kinds than those of our own."""

from __future__ import annotations

import pathlib
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest
from foreign_conv import conv_model, verified
from graphs import calibrated, normal
from onnx_text import parse
from verified import write_files

from mpqtool.runtime.verify import verify

_Q, _DQ = "q = QuantizeLinear (c, s1, z1)", "y = DequantizeLinear (q, s1, z1)"


@pytest.mark.parametrize("target", ["cpu", "cuda"])
@pytest.mark.parametrize(
    ("outputs", "body", "others", "island"),
    [
        ("int8[N, 4, 6, 6] q", _Q, {"z1": np.int8(3)}, "q"),
        ("float[N, 4, 6, 6] y", _Q + _DQ, {"s1": np.float32(5e-4), "z1": np.uint16(30000)}, "q"),
        ("float[N, 4, 6, 6] y", _Q + _DQ, {"s1": np.float32(5e-4), "z1": np.int16(-5)}, "q"),
        ("uint8[N, 4, 6, 6] q", f"f = Sin (c) {_Q.replace('(c,', '(f,')}", {}, "q"),
    ],
    ids=["int8-output", "uint16", "int16", "uint8-output-of-an-island"],
)
def test_codes_of_float_operators_may_differ_by_one(
    tmp_path: pathlib.Path, outputs: str, body: str, others: dict[str, Any], island: str, target: str
) -> None:
    qdq, feeds = conv_model(outputs, body, **others)

    result = verified(tmp_path, qdq, feeds, target=target)

    assert result.passed, result.first_different
    assert {row.name: row.kind for row in result.tensors}[island] == "island"


@pytest.mark.parametrize("z1", [np.int8(3), np.uint16(30000)], ids=["int8", "uint16"])
def test_codes_of_float_operators_may_not_differ_by_two(tmp_path: pathlib.Path, z1: np.generic) -> None:
    qdq, feeds = conv_model(f"{z1.dtype}[N, 4, 6, 6] q", _Q, z1=z1)
    verified(tmp_path, qdq, feeds)
    model = ir.load(tmp_path / "a.int.onnx")
    (end,) = [node for node in model.graph if node.outputs[0].name == "q"]
    held = end.inputs[2]
    assert held is not None
    held.const_value = ir.tensor(z1 + z1.dtype.type(2), name=held.name)
    ir.save(model, tmp_path / "b.int.onnx")

    assert not verify(tmp_path / "b.int.onnx", tmp_path / "a.qdq.onnx", [feeds], threads=1).passed


@pytest.mark.parametrize(
    ("outputs", "body"),
    [
        ("float[N, 4, 6, 6] y, float[N, 4, 6, 6] y2", f"{_Q} {_DQ} y2 = Identity (y)"),
        ("float[N, 4, 6, 6] y, uint8[N, 4, 6, 6] q", f"{_Q} {_DQ}"),
        ("float[N, 4, 6, 6] y, float[N, 4, 6, 6] r", f"r = Relu (c) {_Q.replace('(c,', '(r,')} {_DQ}"),
    ],
    ids=["copied", "codes", "before-codes"],
)
def test_outputs_may_be_used_by_other_operators(tmp_path: pathlib.Path, outputs: str, body: str) -> None:
    qdq, feeds = conv_model(outputs, body)

    assert verified(tmp_path, qdq, feeds).passed


def test_indices_of_a_pool_may_be_an_output(tmp_path: pathlib.Path, rng: np.random.Generator) -> None:
    text = """
    net (float[N, 2, 8, 8] x) => (float[N, 4, 3, 3] y, int64[N, 4, 3, 3] i) {
        c = Conv (x, w)
        y, i = MaxPool <kernel_shape = [2, 2], strides = [2, 2]> (c)
    }
    """
    model = normal(text, {"w": rng.normal(size=(4, 2, 3, 3))})
    feeds = {"x": rng.normal(size=(3, 2, 8, 8)).astype(np.float32)}

    assert write_files(tmp_path, model, feeds, calibrated(model, feeds)).verify().passed


@pytest.mark.parametrize("op", ["Tanh", "Relu", "Identity"])
def test_a_single_number(tmp_path: pathlib.Path, op: str) -> None:
    text = f"""
    net (float x) => (float y)
    <float s = {{0.03}}, uint8 z = {{128}}, float s1 = {{0.05}}, uint8 z1 = {{120}}> {{
        xq = QuantizeLinear (x, s, z)
        xd = DequantizeLinear (xq, s, z)
        h = {op} (xd)
        hq = QuantizeLinear (h, s1, z1)
        y = DequantizeLinear (hq, s1, z1)
    }}
    """
    feeds = {"x": np.array(1.1, np.float32)}

    assert verified(tmp_path, parse(text), feeds).passed
