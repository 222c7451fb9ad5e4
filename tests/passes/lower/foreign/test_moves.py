from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest
from compare import assert_equivalent, run_onnx
from onnx_ir.passes import common
from onnx_text import ops, parse

from mpqtool.passes.lower.foreign import MergePairsPass, QuantizeMovesPass, RescalePass

X = {"x": np.random.default_rng(0).normal(size=(3, 2, 4, 4)).astype(np.float32)}
NUMBERS = {
    "s": np.array(0.03, np.float32),
    "t": np.array(0.05, np.float32),
    "z": np.array(120, np.uint8),
    "six": np.array(0.61, np.float32),
    "zero": np.array(0, np.float32),
    "rows": np.array([0, -1], np.int64),
}
START = "q = QuantizeLinear (x, s, z) d = DequantizeLinear (q, s, z)"
END = "p = QuantizeLinear (m, t, z) y = DequantizeLinear (p, t, z)"


def _model(body: str) -> ir.Model:
    model = parse(f"net (float[N, 2, 4, 4] x) => (float[N, K, L, M] y) {{ {body} }}", NUMBERS)
    common.ShapeInferencePass()(model)
    return model


@pytest.mark.parametrize(
    ("body", "quantizers"),
    [
        pytest.param(f"{START} m = MaxPool <kernel_shape = [2, 2]> (d) y = Exp (m)", 2, id="behind-max-pool"),
        pytest.param(
            f"{START} m = Transpose <perm = [0, 1, 3, 2]> (d) n = Relu (m) y = Exp (n)", 3, id="two"
        ),
        pytest.param(f"e = Exp (x) m = Transpose <perm = [0, 1, 3, 2]> (e) {END}", 2, id="before-transpose"),
        pytest.param(
            f"e = Sin (x) k = MaxPool <kernel_shape = [2, 2]> (e) m = Relu (k) {END}", 2, id="and-relu"
        ),
    ],
)
def test_moved_values_get_pairs_and_stay_the_same(body: str, quantizers: int) -> None:
    before = run_onnx(_model(body), X)

    result = QuantizeMovesPass()(_model(body))

    assert result.modified
    assert ops(result.model).count("QuantizeLinear") == quantizers
    assert_equivalent(before, run_onnx(result.model, X), rtol=0, atol=0)
    MergePairsPass()(result.model)
    assert not QuantizeMovesPass()(result.model).modified


@pytest.mark.parametrize(
    "body",
    [
        pytest.param(f"{START} y = MaxPool <kernel_shape = [2, 2]> (d)", id="output"),
        pytest.param(f"{START} m = Clip (d, zero, six) y = Exp (m)", id="clip-off-the-grid"),
        pytest.param(
            "e = Exp (x) m = Transpose <perm = [0, 1, 3, 2]> (e) a = Neg (m) n = Add (a, m) y = Neg (n)",
            id="float",
        ),
        pytest.param(f"e = Exp (x) n = Neg (e) m = Add (e, n) {END}", id="no-move"),
    ],
)
def test_is_left_alone(body: str) -> None:
    assert not QuantizeMovesPass()(_model(body)).modified


@pytest.mark.parametrize(
    "body",
    [
        pytest.param(f"{START} p = QuantizeLinear (d, t, z) y = DequantizeLinear (p, t, z)", id="scale"),
        pytest.param(f"{START} m = Relu (d) {END}", id="relu"),
        pytest.param(f"{START} k = Clip (d, zero, six) m = Relu (k) {END}", id="clip-and-relu"),
    ],
)
def test_a_change_of_scale_becomes_an_operator(body: str) -> None:
    before = run_onnx(_model(body), X)

    result = RescalePass()(_model(body))

    assert result.modified
    assert ops(result.model).count("Concat") == 1
    assert ops(result.model)[2] == "Concat"
    assert_equivalent(before, run_onnx(result.model, X), rtol=0, atol=0)
    assert not RescalePass()(result.model).modified


def test_a_clamp_of_codes_is_no_change_of_scale() -> None:
    body = f"{START} m = Relu (d) p = QuantizeLinear (m, s, z) y = DequantizeLinear (p, s, z)"

    assert not RescalePass()(_model(body)).modified
