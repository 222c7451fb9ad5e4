from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest
from compare import assert_equivalent, run_onnx
from onnx_text import ops, parse

from mpqtool.passes.lower.foreign import MergePairsPass

X = {"x": np.linspace(-3, 8, 200, dtype=np.float32).reshape(50, 4)}
NUMBERS = {
    "s": np.array(0.037, np.float32),
    "t": np.array(0.037, np.float32),
    "other": np.array(0.05, np.float32),
    "z": np.array(17, np.uint8),
    "signed": np.array(17, np.int8),
}


def _model(body: str) -> ir.Model:
    return parse(f"net (float[N, 4] x) => (float[N, 4] y, float[N, 4] v) {{ {body} }}", NUMBERS)


@pytest.mark.parametrize(
    "body",
    [
        pytest.param(
            "q = QuantizeLinear (x, s, z) y = DequantizeLinear (q, s, z)"
            " p = QuantizeLinear (x, t, z) v = DequantizeLinear (p, t, z)",
            id="twice",
        ),
        pytest.param(
            "q = QuantizeLinear (x, s, z) y = DequantizeLinear (q, s, z)"
            " p = QuantizeLinear (y, t, z) v = DequantizeLinear (p, t, z)",
            id="again",
        ),
    ],
)
def test_one_of_two_is_left(body: str) -> None:
    before = run_onnx(_model(body), X)

    result = MergePairsPass()(_model(body))

    assert result.modified
    assert ops(result.model).count("QuantizeLinear") == 1
    assert_equivalent(before, run_onnx(result.model, X), rtol=0, atol=0)
    assert not MergePairsPass()(result.model).modified


@pytest.mark.parametrize(
    "second",
    [
        pytest.param("p = QuantizeLinear (y, other, z) v = DequantizeLinear (p, other, z)", id="other-scale"),
        pytest.param(
            "p = QuantizeLinear (x, s, signed) v = DequantizeLinear (p, s, signed)", id="other-type"
        ),
    ],
)
def test_is_left_alone(second: str) -> None:
    model = _model(f"q = QuantizeLinear (x, s, z) y = DequantizeLinear (q, s, z) {second}")

    assert not MergePairsPass()(model).modified
