from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest
from compare import assert_equivalent, run_onnx
from onnx_ir.passes import common
from onnx_text import ops, parse

from mpqtool.passes.lower.foreign import MergePairsPass, QuantizeMovesPass, RescalePass
from mpqtool.passes.pipelines import lower
from mpqtool.runtime.session import LEVELS

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
    "move",
    [
        "m = MaxPool <kernel_shape = [2, 2]> (r)",
        "m = Transpose <perm = [0, 3, 2, 1]> (r)",
        "m = Flatten (r)",
        "m = Identity (r)",
        "k = MaxPool <kernel_shape = [2, 2]> (r) m = Transpose (k)",
        "k = Clip (r, zero, six) m = Flatten (k)",
    ],
)
@pytest.mark.parametrize("clamp", ["r = Relu (c)", "r = Identity (c)"])
@pytest.mark.parametrize(
    ("zero", "low", "high"),
    [
        pytest.param(np.uint8(0), np.uint8(0), np.uint8(15), id="uint8"),
        pytest.param(np.int8(-2), np.int8(-8), np.int8(7), id="int8"),
        pytest.param(np.uint8(9), np.uint8(3), np.uint8(15), id="from-3"),
    ],
)
def test_a_clip_of_moved_codes_stays(
    move: str, clamp: str, zero: np.generic, low: np.generic, high: np.generic
) -> None:
    rank = "A, B" if "Flatten" in move else "A, B, C, D"
    text = f"""
    net (float[N, 2, 4, 4] x) => (float[{rank}] y) {{
        {START} e = DequantizeLinear (w, s) c = Conv (d, e) {clamp} {move}
        p = QuantizeLinear (m, t, y_zero) b = Clip (p, low, high) y = DequantizeLinear (b, t, y_zero)
    }}
    """
    # Powers of 2: no rounding differs.
    numbers = {**NUMBERS, "s": np.array(2.0**-5, np.float32), "t": np.array(2.0**-4, np.float32)}
    numbers |= {
        "w": np.array([[40, -30], [-20, 50]], np.int8).reshape(2, 2, 1, 1),
        "y_zero": np.asarray(zero),
    }
    numbers |= {"low": np.asarray(low), "high": np.asarray(high)}
    expected = run_onnx(parse(text, numbers), X)["y"]
    assert expected.max() == 2.0**-4 * (int(high) - int(zero)) or "six" in move  # the bound matters

    lowered = lower(parse(text, numbers))

    assert "Conv" not in ops(lowered)
    for level in LEVELS:
        np.testing.assert_array_equal(run_onnx(lowered, X, level=level)["y"], expected)


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


def test_a_clip_bounds_real_zeros_of_a_pad_too() -> None:
    """Code 20 is real 0, and beyond the Clip."""
    text = """
    net (float[N, 2, 4, 4] x) => (float[N, 2, 6, 6] y) {
        q = QuantizeLinear (x, s, twenty) b = Clip (q, low, high) d = DequantizeLinear (b, s, twenty)
        m = Pad (d, pads)
        p = QuantizeLinear (m, s, twenty) c = Clip (p, low, high) y = DequantizeLinear (c, s, twenty)
    }
    """
    numbers = {"s": np.float32(0.03), "twenty": np.uint8(20), "low": np.uint8(0), "high": np.uint8(15)}
    numbers |= {"pads": np.array([0, 0, 1, 1, 0, 0, 1, 1])}
    model = parse(text, {name: np.asarray(held) for name, held in numbers.items()})
    expected = run_onnx(model, X)["y"]

    np.testing.assert_array_equal(run_onnx(lower(model), X)["y"], expected)


def test_a_clamp_of_codes_is_no_change_of_scale() -> None:
    body = f"{START} m = Relu (d) p = QuantizeLinear (m, s, z) y = DequantizeLinear (p, s, z)"

    assert not RescalePass()(_model(body)).modified
