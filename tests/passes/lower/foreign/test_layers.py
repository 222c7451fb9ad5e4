from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest
from compare import assert_equivalent, run_onnx
from onnx_ir.passes import common
from onnx_text import ops, parse

from mpqtool.passes.lower.foreign import CanonicalLayersPass
from mpqtool.passes.values import array, is_canonical_gemm

RNG = np.random.default_rng(0)
X = RNG.normal(size=(6, 4)).astype(np.float32)
WEIGHTS = {
    "w": RNG.integers(-128, 128, (4, 3)).astype(np.int8),
    "wt": RNG.integers(-128, 128, (3, 4)).astype(np.int8),
    "s": np.array([0.1, 0.2, 0.3], np.float32),
    "z": np.zeros(3, np.int8),
    "b8": np.array([3, -100, 7], np.int8),
    "b32": np.array([300, -100000, 7], np.int32),
    "z32": np.zeros(3, np.int32),
    "row": np.array([[1.5, -2, 3]], np.float32),
    "blocks": np.full((2, 3), 0.1, np.float32),
    "zeros": np.zeros((2, 3), np.int8),
}
W = "d = DequantizeLinear <axis = 1> (w, s, z)"
WT = "d = DequantizeLinear <axis = 0> (wt, s, z)"
# Products come in another order of summation.
ROUNDING = 1e-5


def _model(body: str, *, shape: str = "N, 4", out: str = "N, 3") -> ir.Model:
    model = parse(f"net (float[{shape}] x) => (float[{out}] y) {{ {body} }}", WEIGHTS)
    common.ShapeInferencePass()(model)
    return model


@pytest.mark.parametrize(
    "body",
    [
        pytest.param(f"{W} y = Gemm (x, d)", id="not-transposed"),
        pytest.param(f"{W} y = Gemm <alpha = 0.5, beta = 2.0> (x, d, row)", id="alpha-beta"),
        pytest.param(f"{WT} y = Gemm <alpha = 0.3, transB = 1> (x, d)", id="transposed-alpha"),
        pytest.param(f"{W} y = MatMul (x, d)", id="matmul"),
        pytest.param(f"{W} m = MatMul (x, d) y = Add (m, row)", id="matmul-add"),
        pytest.param(
            f"{W} m = MatMul (x, d) b = DequantizeLinear <axis = 0> (b8, s, z) y = Add (b, m)",
            id="quantized-row",
        ),
    ],
)
def test_one_gemm_is_left(body: str) -> None:
    before = run_onnx(_model(body), {"x": X})

    result = CanonicalLayersPass()(_model(body))

    assert result.modified
    common.RemoveUnusedNodesPass()(result.model)
    assert ops(result.model)[-1] == "Gemm"
    assert is_canonical_gemm(result.model.graph[-1])
    assert not {"MatMul", "Add"} & set(ops(result.model))
    assert_equivalent(before, run_onnx(result.model, {"x": X}), rtol=ROUNDING, atol=ROUNDING)
    assert not CanonicalLayersPass()(result.model).modified


def test_matmul_of_rank_3_stands_between_reshapes() -> None:
    x = RNG.normal(size=(2, 5, 4)).astype(np.float32)
    body = f"{W} m = MatMul (x, d) y = Add (m, row)"
    before = run_onnx(_model(body, shape="N, 5, 4", out="N, 5, 3"), {"x": x})

    result = CanonicalLayersPass()(_model(body, shape="N, 5, 4", out="N, 5, 3"))

    common.RemoveUnusedNodesPass()(result.model)
    assert ops(result.model) == ["DequantizeLinear", "Reshape", "Gemm", "Reshape"]
    assert_equivalent(before, run_onnx(result.model, {"x": x}), rtol=ROUNDING, atol=ROUNDING)


@pytest.mark.parametrize("add", ["y = MatMul (x, d)", "m = MatMul (x, d) y = Add (m, row)"])
def test_several_free_sizes_are_computed(add: str) -> None:
    x = RNG.normal(size=(2, 5, 4)).astype(np.float32)
    before = run_onnx(_model(f"{W} {add}", shape="N, S, 4", out="N, S, 3"), {"x": x})

    result = CanonicalLayersPass()(_model(f"{W} {add}", shape="N, S, 4", out="N, S, 3"))

    assert {"Gemm", "Shape", "Reshape"} <= set(ops(result.model))
    assert not {"MatMul", "Add"} & set(ops(result.model))
    assert_equivalent(before, run_onnx(result.model, {"x": x}), rtol=ROUNDING, atol=ROUNDING)


@pytest.mark.parametrize(
    ("bias", "kept"),
    [
        pytest.param("b = DequantizeLinear <axis = 0> (b8, s, z)", False, id="int8"),
        pytest.param("b = DequantizeLinear <axis = 0> (b32, s, z32)", True, id="int32"),
    ],
)
def test_a_bias_is_int32_or_float(bias: str, kept: bool) -> None:
    body = f"{WT} {bias} y = Gemm <transB = 1> (x, d, b)"
    before = run_onnx(_model(body), {"x": X})

    result = CanonicalLayersPass()(_model(body))

    assert result.modified is not kept
    used = result.model.graph[-1].inputs[2]
    assert used is not None
    assert (used.producer() is not None) is kept
    assert_equivalent(before, run_onnx(result.model, {"x": X}), rtol=0, atol=0)


def test_an_added_constant_becomes_float() -> None:
    body = (
        "e = Neg (x) b = DequantizeLinear <axis = 0> (b8, s, z) c = Concat <axis = 0> (b, b) y = Mul (e, b)"
    )
    model = parse(f"net (float[N, 3] x) => (float[N, 3] y) {{ {body} }}", WEIGHTS)

    result = CanonicalLayersPass()(model)

    assert array(result.model.graph[-1].inputs[1]) is not None


@pytest.mark.parametrize(
    "body",
    [
        pytest.param(f"{WT} y = Gemm <transB = 1> (x, d)", id="canonical"),
        pytest.param(f"{W} e = Transpose (x) y = Gemm <transA = 1> (e, d)", id="trans-a"),
        pytest.param(f"{W} y = Gemm <alpha = -1.0> (x, d)", id="negative"),
        pytest.param(
            "d = DequantizeLinear <axis = 0, block_size = 2> (w, blocks, zeros) y = Gemm (x, d)",
            id="block-by-block",
        ),
        pytest.param("d = Transpose (x) y = MatMul (x, d)", id="two-activations"),
    ],
)
def test_is_left_alone(body: str) -> None:
    assert not CanonicalLayersPass()(_model(body)).modified
