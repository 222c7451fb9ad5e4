from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from importing import assert_imports
from typed import compute

from mpqtool.importer.unary import determinant

# Where the function is defined.
RANGES = {"Acos": (-1, 1), "Acosh": (1, 3), "Asin": (-1, 1), "Atanh": (-0.9, 0.9), "Log": (0.1, 3),
          "Reciprocal": (0.5, 2), "Sqrt": (0.1, 3), "Tan": (-1, 1)}  # fmt: skip
OPSETS = {
    "Abs": (7, 13), "Acos": (7, 22), "Acosh": (9, 22), "Asin": (7, 22), "Asinh": (9, 22), "Atan": (7, 22),
    "Atanh": (9, 22), "Ceil": (7, 13), "Cos": (7, 22), "Cosh": (9, 22), "Erf": (9, 13), "Exp": (7, 13),
    "Floor": (7, 13), "Log": (7, 13), "Neg": (7, 13), "Reciprocal": (7, 13), "Round": (11, 22),
    "Sign": (9, 13), "Sin": (7, 22), "Sinh": (9, 22), "Sqrt": (7, 13), "Tan": (7, 22),
}  # fmt: skip


@pytest.mark.parametrize(("op", "opset"), [(op, opset) for op, opsets in OPSETS.items() for opset in opsets])
def test_unary(op: str, opset: int) -> None:
    low, high = RANGES.get(op, (-3, 3))
    # Two libraries' approximations, a few float32 steps apart.
    assert_imports(f"y = {op} (x)", opset=opset, low=low, high=high, rtol=2e-6, atol=1e-6)


def test_round_gives_the_even_one_of_two() -> None:
    x = np.array([0.5, 1.5, 2.5, -0.5, -1.5, 2.4, math.inf], np.float32)
    assert compute("y = Round (x)", opset=22, x=x).tolist() == [0, 2, 2, 0, -2, 2, math.inf]


@pytest.mark.parametrize("dtype", ["int8", "int64", "uint8", "uint16", "uint32", "uint64"])
def test_abs_and_sign_of_integers(dtype: str) -> None:
    x = np.array([0, 3, np.iinfo(dtype).max, np.iinfo(dtype).min + 1], dtype)
    numbers = x.tolist()
    assert compute("y = Abs (x)", gives=dtype, x=x).tolist() == list(map(abs, numbers))
    assert compute("y = Sign (x)", gives=dtype, x=x).tolist() == [(n > 0) - (n < 0) for n in numbers]


def test_erf_of_integers_is_an_integer() -> None:
    x = np.array([-9, 0, 9], np.int8)
    assert compute("y = Erf (x)", opset=9, gives=np.int8, x=x).tolist() == [-1, 0, 1]


@pytest.mark.parametrize("opset", [11, 22])
def test_determinant(opset: int) -> None:
    # Sums of 24 products up to 16 that cancel.
    assert_imports("y = Det (x)", opset=opset, inputs={"x": (3, 4, 4)}, rtol=1e-5, atol=1e-5)


def test_determinant_of_halves() -> None:
    x = np.array([[2, 1], [1, 3]], np.float16)
    assert compute("y = Det (x)", opset=22, gives=np.float16, x=x).tolist() == 5


def test_determinant_has_its_gradient() -> None:
    x = torch.tensor([[2.0, 1.0], [0.5, 3.0]], dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(determinant, (x,))
