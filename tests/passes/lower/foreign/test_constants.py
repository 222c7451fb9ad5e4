from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest
from compare import assert_equivalent, run_onnx
from onnx_ir.passes import common
from onnx_text import ops, parse

from mpqtool.passes.lower.foreign import FoldQuantizedConstantsPass
from mpqtool.passes.values import array

RNG = np.random.default_rng(0)
X = {"x": RNG.normal(size=(5, 4)).astype(np.float32)}
WEIGHTS = {
    "w": RNG.normal(size=(4, 3)).astype(np.float32),
    "s": np.array([0.1, 0.21, 0.32], np.float32),
    "z": np.array([0, 3, -7], np.int8),
    "low": np.array(-8, np.int8),
    "high": np.array(7, np.int8),
    "codes": RNG.integers(-128, 128, (3, 4)).astype(np.int8),
    "t": np.array(0.02, np.float32),
    "zero": np.array(5, np.int8),
}


def _model(body: str) -> ir.Model:
    return parse(f"net (float[N, 4] x) => (float[N, M] y) {{ {body} y = MatMul (x, d) }}", WEIGHTS)


@pytest.mark.parametrize(
    ("body", "left"),
    [
        pytest.param(
            "q = QuantizeLinear <axis = 1> (w, s, z) d = DequantizeLinear <axis = 1> (q, s, z)",
            ["DequantizeLinear"],
            id="float-weight",
        ),
        pytest.param(
            "q = QuantizeLinear <axis = 1> (w, s, z) c = Clip (q, low, high)"
            " d = DequantizeLinear <axis = 1> (c, s, z)",
            ["DequantizeLinear"],
            id="with-clip",
        ),
        pytest.param(
            "c = Clip (codes, low, high) e = DequantizeLinear <axis = 0> (c, s, z)  d = Transpose (e)",
            ["DequantizeLinear"],
            id="clipped-codes-and-transpose",
        ),
        pytest.param(
            "e = DequantizeLinear (codes, t, zero)  d = Transpose <perm = [1, 0]> (e)",
            ["DequantizeLinear"],
            id="one-scale",
        ),
        pytest.param(
            "b = DequantizeLinear (low, t, zero) e = DequantizeLinear (codes, t, zero)"
            " k = Clip (e, b) d = Transpose (k)",
            ["DequantizeLinear", "Clip", "Transpose"],
            id="bound",
        ),
    ],
)
def test_constants_become_codes_of_the_same_numbers(body: str, left: list[str]) -> None:
    before = run_onnx(_model(body), X)

    result = FoldQuantizedConstantsPass()(_model(body))

    assert result.modified
    common.RemoveUnusedNodesPass()(result.model)
    assert [op for op in ops(result.model) if op != "MatMul"] == left
    assert_equivalent(before, run_onnx(result.model, X), rtol=0, atol=0)
    assert not FoldQuantizedConstantsPass()(result.model).modified


def test_four_bit_types_are_rounded_to_their_range() -> None:
    weights = {"w": WEIGHTS["w"], "s": np.array(0.1, np.float32), "z": np.array(0, ir.DataType.INT4.numpy())}
    body = "q = QuantizeLinear (w, s, z) d = DequantizeLinear (q, s, z) y = MatMul (x, d)"
    model = parse(f"net (float[N, 4] x) => (float[N, 3] y) {{ {body} }}", weights)
    before = run_onnx(model, X)

    result = FoldQuantizedConstantsPass()(model)

    codes = array(result.model.graph.node(0).inputs[0])
    assert codes is not None
    assert codes.dtype == ir.DataType.INT4.numpy()
    assert (codes.astype(int).min(), codes.astype(int).max()) == (-8, 7)
    assert_equivalent(before, run_onnx(result.model, X), rtol=0, atol=0)


@pytest.mark.parametrize(
    "body",
    [
        pytest.param(
            "v = Identity (s) q = QuantizeLinear (w, v, z) d = DequantizeLinear (q, v, z)",
            id="scale-computed",
        ),
        pytest.param(
            "v = Identity (low) c = Clip (codes, v, high) e = DequantizeLinear (c, t, zero) d = Neg (e)",
            id="bound-computed",
        ),
    ],
)
def test_is_left_alone(body: str) -> None:
    assert not FoldQuantizedConstantsPass()(_model(body)).modified
