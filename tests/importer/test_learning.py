"""Which constants become parameters."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from importing import imported, parse
from numpy.typing import NDArray

_RNG = np.random.default_rng(0)
_MATRIX = _RNG.normal(size=(4, 4)).astype(np.float32)
_ROW = _RNG.normal(size=4).astype(np.float32)
_MASK = np.triu(np.full((4, 4), -1e9, np.float32), 1)
_GRID = np.arange(16, dtype=np.float32).reshape(4, 4)
_INTS = np.array([0], np.int64)


def _names(body: str, **arrays: NDArray[Any]) -> set[str]:
    proto = parse(body, inputs={"x": (4,)}, initializers=arrays)
    return set(dict(imported(onnx.shape_inference.infer_shapes(proto)).named_parameters()))


@pytest.mark.parametrize(
    "body",
    [
        pytest.param("y = MatMul (x, w)", id="product"),
        pytest.param("y = MatMul (w, x)", id="product-from-the-left"),
        pytest.param("y = Gemm (w, x)", id="gemm-from-the-left"),
        pytest.param("y = Gemm <transB = 1> (x, w)", id="gemm"),
        pytest.param("y = Einsum <equation = 'ni,ij->nj'> (x, w)".replace("'", '"'), id="einsum"),
        pytest.param("t = Transpose (w)  y = MatMul (x, t)", id="through-transpose"),
        pytest.param("t = Identity (w)  s = Reshape (t, shape)  y = MatMul (x, s)", id="through-two"),
        pytest.param("r = Relu (x)  y = Add (r, w)", id="added"),
        pytest.param("r = Relu (x)  y = Sub (r, w)", id="taken-away-inside"),
        pytest.param("y = Mul (x, w)", id="gain"),
        pytest.param("s = Slice (w, zero, four)  y = Add (x, s)", id="slice-of-a-table"),
        pytest.param("i = Cast <to = 7> (x)  y = Gather (w, i)", id="embedding"),
        pytest.param("c = Concat <axis = 0> (w, x)  y = Add (c, b)", id="put-before"),
    ],
)
def test_learns(body: str) -> None:
    arrays = {
        "w": _MATRIX,
        "b": _ROW,
        "zero": _INTS,
        "four": _INTS + 4,
        "shape": np.array([4, 4], np.int64),
    }
    assert "w" in _names(body, **{name: array for name, array in arrays.items() if name in body})


def test_the_bias_of_a_layer_with_one_output_learns() -> None:
    assert _names("t = MatMul (x, w)  y = Add (t, b)", w=_MATRIX[:, :1], b=_ROW[:1]) == {"w", "b"}


@pytest.mark.parametrize(
    ("body", "numbers"),
    [
        pytest.param("y = Add (x, w)", np.float32(0.5), id="number"),
        pytest.param("y = Mul (x, w)", _ROW[:1], id="one-number-in-a-list"),
        pytest.param("y = Add (x, w)", _MASK, id="mask"),
        pytest.param("s = Slice (w, zero, four)  y = Add (x, s)", _MASK, id="slice-of-a-mask"),
        pytest.param("y = Add (x, w)", _GRID, id="grid"),
        pytest.param("y = Sub (x, w)", _ROW, id="mean-of-the-input"),
        pytest.param("m = Sub (x, half)  y = Div (m, w)", _ROW, id="deviation-of-the-input"),
        pytest.param("t = Add (x, w)  y = Floor (t)", _ROW, id="before-a-step"),
        pytest.param("t = Add (x, w)  i = Cast <to = 7> (t)  y = Cast <to = 1> (i)", _ROW, id="integers"),
        pytest.param("y = Max (x, w)", _ROW, id="bound"),
        pytest.param("e = Expand (w, shape)  y = MatMul (x, e)", np.float32(0.5), id="fills-an-operand"),
        pytest.param("t = Add (x, w)  y = Identity (x)", _ROW, id="of-no-use"),
    ],
)  # fmt: skip
def test_does_not_learn(body: str, numbers: NDArray[Any]) -> None:
    arrays = {"w": numbers, "zero": _INTS, "four": _INTS + 4, "half": np.float32(0.5)}
    arrays["shape"] = np.array([4, 4], np.int64)
    assert _names(body, **{name: array for name, array in arrays.items() if name in body}) == set()
