from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest
from compare import assert_equivalent, run_onnx
from numpy.typing import NDArray
from onnx_ir.passes import common
from onnx_text import parse

from mpqtool.passes import metadata
from mpqtool.passes.lower.foreign import CenterWeightsPass, FoldQuantizedConstantsPass
from mpqtool.passes.lower.match import dequantized_weight

RNG = np.random.default_rng(0)
X = {"x": RNG.normal(size=(6, 4)).astype(np.float32)}
INT4, UINT4 = ir.DataType.INT4.numpy(), ir.DataType.UINT4.numpy()
TEXT = """
net (float[N, 4] x) => (float[N, 3] y) {{
    q = QuantizeLinear (x, t, u)
    e = DequantizeLinear (q, t, u)
    {clip}
    d = DequantizeLinear <axis = 0> ({codes}, s, z)
    y = Gemm <transB = 1> ({input}, d)
}}"""


def _model(
    codes: NDArray[np.generic], zero: NDArray[np.generic], *, clip: bool = False, quantized: bool = True
) -> ir.Model:
    weights = {
        "t": np.array(0.05, np.float32),
        "u": np.array(128, np.uint8),
        "s": np.array([0.1, 0.2, 0.3], np.float32),
        "low": np.array(-7).astype(codes.dtype),
        "high": np.array(7).astype(codes.dtype),
        "w": codes,
        "z": zero,
    }
    text = TEXT.format(
        clip="c = Clip (w, low, high)" if clip else "",
        codes="c" if clip else "w",
        input="e" if quantized else "x",
    )
    return parse(text, weights)


def _ints(low: int, high: int, dtype: np.dtype | type) -> NDArray[np.generic]:
    numbers = RNG.integers(low, high + 1, (3, 4))
    numbers[0, 0], numbers[1, 1] = low, high
    found: NDArray[np.generic] = numbers.astype(np.int32).astype(dtype)
    return found


@pytest.mark.parametrize(
    ("codes", "zero", "stored", "width"),
    [
        pytest.param(_ints(0, 255, np.uint8), np.full(3, 128, np.uint8), np.int8, 8, id="uint8-128"),
        pytest.param(
            _ints(20, 140, np.uint8), np.array([100, 90, 120], np.uint8), np.int8, 8, id="that-fits"
        ),
        pytest.param(_ints(-8, 7, INT4), np.zeros(3, np.int8).astype(INT4), np.int8, 4, id="int4"),
        pytest.param(_ints(0, 15, UINT4), np.full(3, 8, np.int8).astype(UINT4), np.int8, 4, id="uint4-8"),
        pytest.param(_ints(0, 15, UINT4), np.full(3, 5, np.int8).astype(UINT4), np.int8, 5, id="uint4-5"),
        pytest.param(
            _ints(-120, 127, np.int8), np.array([9, -20, 0], np.int8), np.uint8, 8, id="int8-zero-points"
        ),
    ],
)
def test_codes_are_centered(
    codes: NDArray[np.generic], zero: NDArray[np.generic], stored: type, width: int
) -> None:
    before = run_onnx(_model(codes, zero), X)

    result = CenterWeightsPass()(_model(codes, zero))

    assert result.modified
    assert_equivalent(before, run_onnx(result.model, X), rtol=0, atol=0)
    weight = dequantized_weight(result.model.graph[-1].inputs[1])
    assert weight is not None
    centered = codes.astype(np.int32) - zero.astype(np.int32)[:, None]
    np.testing.assert_array_equal(weight.codes, centered)
    assert weight.bits == (width,) * 3
    assert (weight.zero_point is None) == (stored is np.int8)
    assert not CenterWeightsPass()(result.model).modified


def test_a_clip_tells_the_width() -> None:
    model = _model(_ints(-20, 20, np.int8), np.zeros(3, np.int8), clip=True)
    before = run_onnx(model, X)

    FoldQuantizedConstantsPass()(model)
    result = CenterWeightsPass()(model)

    assert result.modified
    weight = dequantized_weight(result.model.graph[-1].inputs[1])
    assert weight is not None
    assert weight.bits == (4, 4, 4)
    assert np.abs(weight.codes).max() == 7
    assert_equivalent(before, run_onnx(result.model, X), rtol=0, atol=0)


@pytest.mark.parametrize(
    "model",
    [
        pytest.param(_model(_ints(-3, 3, np.int8), np.zeros(3, np.int8)), id="int8-whatever-it-holds"),
        pytest.param(_model(_ints(0, 255, np.uint8), np.array([0, 1, 2], np.uint8)), id="uint8-too-far"),
        pytest.param(
            _model(_ints(-8, 7, INT4), np.zeros(3, np.int8).astype(INT4), quantized=False),
            id="input-is-float",
        ),
        pytest.param(_model(_ints(-800, 700, np.int16), np.zeros(3, np.int16)), id="int16"),
    ],
)
def test_is_left_alone(model: ir.Model) -> None:
    common.ShapeInferencePass()(model)

    assert not CenterWeightsPass()(model).modified
    assert all(metadata.BITS not in node.metadata_props for node in model.graph)
