from __future__ import annotations

import numpy as np
import pytest
from compare import run_onnx
from onnx_text import parse

from mpqtool.runtime.table_ops import OPERATORS

RNG = np.random.default_rng(0)
X = RNG.integers(0, 256, size=(2, 3, 4)).astype(np.uint8)
REAL = RNG.integers(0, 2**16, size=(2, 3, 4)).astype(np.float32)
INDEX = RNG.integers(-3, 3, size=(2, 2, 4)).astype(np.int32)
SCALES = {
    "s": np.array(0.05, np.float32),
    "z": np.array(100, np.uint8),
    "t": np.array(0.9 / 255, np.float32),
    "w": np.array(7, np.uint8),
}
AXES = {"axes": np.array([1, -1])}


@pytest.mark.parametrize(
    ("call", "x", "others"),
    [
        ("GatherElements <axis = 1> (x, i)", X, {"i": INDEX}),
        ("GatherElements (x, i)", X.reshape(-1), {"i": np.arange(5, dtype=np.int32)}),
        ("GlobalMaxPool (x)", REAL, {}),
        ("GlobalMaxPool (x)", REAL[..., None, None], {}),
        ("ReduceMax (x, axes)", X, AXES),
        ("ReduceMax <keepdims = 0> (x, axes)", X, AXES),
        ("ReduceMax (x)", X, {}),
        ("ReduceSum (x, axes)", REAL, AXES),
        ("ReduceSum (x, axes)", REAL.astype(np.float64), AXES),
        ("ReduceSum (x, axes)", REAL.astype(np.int32), AXES),
        ("ReduceSum <noop_with_empty_axes = 1> (x)", REAL, {}),
        ("Shape (x)", X, {}),
        ("Shape <start = 1, end = -1> (x)", X, {}),
        ("com.microsoft.QLinearSigmoid (x, s, z, t, w)", X, SCALES),
        ("com.microsoft.QLinearLeakyRelu (x, s, z, t, w)", X, SCALES),
        ("com.microsoft.QLinearLeakyRelu <alpha = 0.3> (x, s, z, t, w)", X, SCALES),
    ],
)
def test_is_what_onnx_runtime_computes(call: str, x: np.ndarray, others: dict[str, np.ndarray]) -> None:
    types = {"uint8": "uint8", "float32": "float", "float64": "double", "int32": "int32"}
    result = "int64" if call.startswith("Shape") else types[x.dtype.name]
    shape = ", ".join("ABCDE"[: x.ndim])
    model = parse(f"net ({types[x.dtype.name]}[{shape}] x) => ({result}[M] y) {{ y = {call} }}", others)
    model.graph.outputs[0].shape = None
    (node,) = model.graph

    found = OPERATORS[node.domain, node.op_type](node, [x, *others.values()])

    expected = run_onnx(model, {"x": x})["y"]
    assert found.dtype == expected.dtype
    np.testing.assert_array_equal(found, expected)


def test_sums_of_integers_are_exact_in_any_order() -> None:
    e = np.full((4, 256), 2**16, np.float32)
    e[0, 3] -= 1
    text = "net (float[N, M] x, int64[1] a) => (float[N, 1] y) { y = ReduceSum (x, a) }"
    (node,) = parse(text).graph

    found = OPERATORS["", "ReduceSum"](node, [e, np.array([1])])

    assert found.reshape(-1).tolist() == [2**24 - 1, 2**24, 2**24, 2**24]
