from __future__ import annotations

import numpy as np
import pytest
from onnx_text import parse

from mpqtool.passes import metadata
from mpqtool.passes.pipelines import lower

RNG = np.random.default_rng(0)
NUMBERS = {
    "s": np.array(0.05, np.float32),
    "half": np.array(0.05, np.float16),
    "z": np.array(128, np.uint8),
    "wide": np.array(0, np.int16),
    "w": RNG.integers(-128, 128, (4, 4)).astype(np.int8),
    "w16": RNG.integers(-128, 128, (4, 4)).astype(np.int16),
    "f": RNG.normal(size=(4, 4)).astype(np.float32),
    "v": np.full(4, 0.1, np.float32),
    "zv": np.full(4, 128, np.uint8),
    "blocks": np.full((4, 2), 0.1, np.float32),
    "axes": np.array([2]),
    "taps": np.ones((4, 4, 1), np.int8),
    "zeros": np.zeros((4, 2), np.int8),
}
X = "q = QuantizeLinear (x, s, z) d = DequantizeLinear (q, s, z)"
W = "e = DequantizeLinear (w, s)"
GEMM = "y = Gemm <transB = 1> (d, e)"


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        pytest.param(
            f"q = QuantizeLinear (x, s, wide) d = DequantizeLinear (q, s, wide) {W} {GEMM}",
            "its input has int16 codes, allowed uint8 and int8",
            id="int16",
        ),
        pytest.param(
            f"q = QuantizeLinear <axis = 1> (x, v, zv) d = DequantizeLinear <axis = 1> (q, v, zv) {W} {GEMM}",
            "its input has 4 scales, allowed one",
            id="per-channel",
        ),
        pytest.param(f"d = Exp (x) {W} {GEMM}", "its input is not quantized", id="float-input"),
        pytest.param(f"{X} e = Identity (f) {GEMM}", "its weight is not quantized", id="float-weight"),
        pytest.param(
            f"{X} e = DequantizeLinear <axis = 1, block_size = 2> (w, blocks, zeros) {GEMM}",
            "its weight is scaled block by block, allowed one scale per kernel",
            id="blocks",
        ),
        pytest.param(
            f"{X} e = DequantizeLinear (w16, s) {GEMM}",
            "its weight has int16 codes and float32 scales, allowed int8, uint8 and float32",
            id="int16-weight",
        ),
        pytest.param(
            f"{X} a = Add (d, d) b = Exp (a) y = Neg (b)",
            "its result goes to Exp before it is quantized",
            id="result-goes-on",
        ),
        pytest.param(
            f"{X} a = Add (d, d) p = QuantizeLinear (a, s, wide) y = DequantizeLinear (p, s, wide)",
            "its result gets int16 codes, allowed uint8 and int8",
            id="result-int16",
        ),
        pytest.param(f"{X} y = Add (d, d)", "its result is an output of the model", id="output"),
        pytest.param(f"{X} y = Sin (d)", "it has no integer form", id="no-form"),
        pytest.param(f"{X} n = Neg (d) y = Exp (n)", "it has no integer form", id="no-form-goes-on"),
        pytest.param(
            f"{X} r = Unsqueeze (d, axes) e = DequantizeLinear <axis = 1> (taps, s) "
            "c = ConvTranspose (r, e) y = Squeeze (c, axes)",
            "it has no integer form, and its weight is quantized",
            id="conv-transpose",
        ),
    ],
)
def test_the_reason_is_in_the_file(body: str, reason: str) -> None:
    model = parse(f"net (float[N, 4] x) => (float[N, 4] y) {{ {body} }}", NUMBERS)

    lowered = lower(model)

    reasons = [node.metadata_props.get(metadata.ISLAND) for node in lowered.graph]
    assert any(found is not None and found.startswith(reason) for found in reasons), reasons
