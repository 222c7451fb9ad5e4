from __future__ import annotations

import numpy as np
import pytest
from compare import run_onnx
from graphs import calibrated, residual_cnn
from onnx_text import ops, parse

from mpqtool.passes.lower.canonical import canonical_passes
from mpqtool.passes.pipelines import lower, quantize


@pytest.mark.parametrize(
    ("axes", "keepdims", "shape"), [([2, 3], 1, "A, B, C, D"), ([2, 3], 0, "A, B"), ([-1, 1], 0, "A, B")]
)
def test_a_mean_over_an_image_is_integer(axes: list[int], keepdims: int, shape: str) -> None:
    text = f"""
    net (float[N, 2, 4, 4] x) => (float[{shape}] y) {{
        q = QuantizeLinear (x, s, z) d = DequantizeLinear (q, s, z)
        m = ReduceMean <keepdims = {keepdims}> (d, axes)
        p = QuantizeLinear (m, s, z) y = DequantizeLinear (p, s, z)
    }}
    """
    numbers = {"s": np.array(0.05), "z": np.array(128, np.uint8), "axes": np.array(axes)}
    feeds = {"x": np.random.default_rng(0).normal(size=(3, 2, 4, 4)).astype(np.float32)}
    expected = run_onnx(parse(text, numbers), feeds)["y"]

    model = lower(parse(text, numbers))

    assert "QLinearGlobalAveragePool" in ops(model)
    found = run_onnx(model, feeds)["y"]
    np.testing.assert_allclose(found, expected, rtol=0, atol=0.051)  # one code, where a sum lies between two


@pytest.mark.parametrize("bits", [4, 8])
def test_a_file_of_ours_is_left_as_it_is(bits: int, rng: np.random.Generator) -> None:
    model = residual_cnn(rng)
    feeds = {"x": rng.normal(size=(4, 2, 8, 8)).astype(np.float32)}
    qdq = quantize(model, calibrated(model, feeds, weight_bits=bits, activation_bits=bits))

    changed = [type(pass_).__name__ for pass_ in canonical_passes() if pass_(qdq).modified]

    assert changed == []
