"""Units of MobileNetV3 and EfficientNet, from what exporters write to integers that are verified."""

from __future__ import annotations

import pathlib
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest
from compare import assert_equivalent, run_onnx
from graphs import calibrated
from numpy.typing import NDArray
from onnx_text import ops, parse

from mpqtool.passes.load import load_model, save_model
from mpqtool.passes.pipelines import lower, normalize, quantize
from mpqtool.passes.quantize.extract import extract
from mpqtool.runtime.inspect import inspect
from mpqtool.runtime.verify import verify

_NET = """
    net (float[n,3,8,8] x) => (float[n,5] y) <float three = {3}, float zero = {0}, float six = {6}> {
        c0 = Conv<pads=[1,1,1,1], strides=[2,2]>(x, w0, b0)
        sigmoid = Sigmoid(c0)
        silu = Mul(c0, sigmoid)
        c1 = Conv<pads=[1,1,1,1], group=8>(silu, w1, b1)
        shifted = Add(c1, three)
        clipped = Clip(shifted, zero, six)
        product = Mul(c1, clipped)
        swish = Div(product, six)
        pooled = ReduceMean<axes=[2,3]>(swish)
        squeezed = Conv(pooled, s1)
        small = Relu(squeezed)
        excited = Conv(small, s2)
        up = Add(excited, three)
        bounded = Clip(up, zero, six)
        gate = Div(bounded, six)
        scaled = Mul(swish, gate)
        c2 = Conv(scaled, w2)
        sum = Add(silu, c2)
        mean = GlobalAveragePool(sum)
        flat = Flatten(mean)
        y = Gemm<transB=1>(flat, w3, b3)
    }
"""
_UNITS = ["Silu", "HardSwish", "HardSigmoid"]


@pytest.fixture
def exported(rng: np.random.Generator) -> ir.Model:
    sizes = {
        "w0": (8, 3, 3, 3),
        "b0": (8,),
        "w1": (8, 1, 3, 3),
        "b1": (8,),
        "s1": (2, 8, 1, 1),
        "s2": (8, 2, 1, 1),
        "w2": (8, 8, 1, 1),
        "w3": (5, 8),
        "b3": (5,),
    }
    return parse(_NET, {name: rng.normal(size=size) * 0.4 for name, size in sizes.items()}, opset=12)


@pytest.fixture
def feeds(rng: np.random.Generator) -> dict[str, NDArray[Any]]:
    return {"x": rng.normal(size=(4, 3, 8, 8)).astype(np.float32)}


def test_become_units(exported: ir.Model, feeds: dict[str, NDArray[Any]]) -> None:
    model = normalize(exported)
    assert [op for op in ops(model) if op in (*_UNITS, "Sigmoid", "Clip", "Div")] == _UNITS
    assert ir.to_proto(normalize(model)) == ir.to_proto(model)
    # Rounding of the fused formulas, in logits of the order of one.
    assert_equivalent(run_onnx(exported, feeds), run_onnx(model, feeds), rtol=1e-5, atol=1e-5)


def test_go_all_the_way(exported: ir.Model, feeds: dict[str, NDArray[Any]], tmp_path: pathlib.Path) -> None:
    float_file, qdq_file, int_file = (tmp_path / f"{name}.onnx" for name in ("float", "qdq", "int"))
    model = normalize(exported, fold_batch_norm=True)
    save_model(model, float_file)
    assert ir.to_proto(load_model(float_file)) == ir.to_proto(model)

    qdq = quantize(model, calibrated(model, feeds))
    save_model(qdq, qdq_file)
    again = quantize(*extract(load_model(qdq_file)))
    assert_equivalent(run_onnx(qdq, feeds), run_onnx(again, feeds), rtol=0, atol=0)

    save_model(lower(load_model(qdq_file)), int_file)
    integer = load_model(int_file)
    assert not inspect(int_file)["nodes"]["islands"]
    results = [run_onnx(integer, feeds, level=level) for level in ("disabled", "basic", "extended", "all")]
    for result in results[1:]:
        assert_equivalent(results[0], result, rtol=0, atol=0)
    assert verify(int_file, qdq_file, [feeds]).passed
