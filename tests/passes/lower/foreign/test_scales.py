from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest
from compare import run_onnx
from numpy.typing import NDArray
from onnx_text import parse

from mpqtool.passes.lower.foreign import RaiseDeadScalesPass
from mpqtool.passes.pipelines import lower
from mpqtool.passes.values import array
from mpqtool.runtime.session import LEVELS

RNG = np.random.default_rng(0)
X = {"x": RNG.normal(size=(5, 8)).astype(np.float32)}
BIAS = np.array([2.5, -1, 1, 0.5], np.float32)
_SIGNED = {"w": RNG.integers(-127, 128, (4, 8)).astype(np.int8), "z": np.zeros(4, np.int8)}
_UNSIGNED = {
    "w": RNG.integers(0, 256, (4, 8)).astype(np.uint8),
    "z": np.array([128, 3, 250, 0], np.uint8),
}


def _model(scales: list[float], weight: dict[str, NDArray[np.generic]]) -> ir.Model:
    text = """
    net (float[N, 8] x) => (float[N, 4] y) {
        q = QuantizeLinear (x, s, u) d = DequantizeLinear (q, s, u)
        e = DequantizeLinear <axis = 0> (w, v, z) y = Gemm <transB = 1> (d, e, b)
    }
    """
    numbers = {"s": np.float32(1 / 32), "u": np.uint8(128), "v": np.array(scales, np.float32), "b": BIAS}
    return parse(text, {k: np.asarray(n) for k, n in {**numbers, **weight}.items()})


@pytest.mark.parametrize("weight", [_SIGNED, _UNSIGNED], ids=["int8", "uint8"])
@pytest.mark.parametrize("scale", [1e-10, 0.0, -1e-10, 1e-42])
def test_a_dead_kernel_keeps_its_bias(scale: float, weight: dict[str, NDArray[np.generic]]) -> None:
    expected = run_onnx(_model([scale, 0.5, 0.25, 0.125], weight), X)["y"]

    lowered = lower(_model([scale, 0.5, 0.25, 0.125], weight))

    assert "Gemm" not in {node.op_type for node in lowered.graph}
    for level in LEVELS:
        found = run_onnx(lowered, X, level=level)["y"]
        # Scales are powers of 2, so the other kernels are exact but for their biases, which are too.
        np.testing.assert_array_equal(found[:, 1:], expected[:, 1:])
        np.testing.assert_allclose(found[:, 0], expected[:, 0], rtol=1e-5, atol=0)


def test_other_kernels_keep_their_scales_and_codes() -> None:
    model = RaiseDeadScalesPass()(_model([1e-10, 0.5, 0.25, 0.125], _SIGNED)).model

    weight = model.graph[-1].inputs[1]
    assert weight is not None
    codes, scale, _ = (array(value) for value in weight.producer().inputs)  # type: ignore[union-attr]
    assert codes is not None
    assert scale is not None
    np.testing.assert_array_equal(codes[1:], _SIGNED["w"][1:])
    np.testing.assert_array_equal(scale, np.array([2.5 * 32 / 2**30, 0.5, 0.25, 0.125], np.float32))


def test_biases_that_fit_are_left_alone() -> None:
    model = _model([1e-7, 0.5, 0.25, 0.125], _SIGNED)

    assert not RaiseDeadScalesPass()(model).modified
