from __future__ import annotations

import math
import operator
from collections.abc import Callable

import ml_dtypes
import numpy as np
import pytest
import torch
from importing import assert_imports, imported, parse
from typed import compute

ORDER = {
    "Equal": (operator.eq, (7, 11, 13, 19)),
    "Greater": (operator.gt, (7, 9, 13)),
    "GreaterOrEqual": (operator.ge, (12, 16)),
    "Less": (operator.lt, (7, 9, 13)),
    "LessOrEqual": (operator.le, (12, 16)),
}


@pytest.mark.parametrize(
    ("op", "opset"), [(op, opset) for op, (_, opsets) in ORDER.items() for opset in opsets]
)
def test_order(op: str, opset: int) -> None:
    # Rounded, so that some are equal; as integers, which is what Equal 7 takes.
    kind = 6 if op == "Equal" else 1
    assert_imports(
        f"i = Cast <to = {kind}> (x)  j = Cast <to = {kind}> (b)  q = {op} (i, j)  y = Cast <to = 1> (q)",
        opset=opset,
        inputs={"x": (4, 6), "b": (1, 6)},
        rtol=0,
        atol=0,
    )


@pytest.mark.parametrize("op", ORDER)
@pytest.mark.parametrize("dtype", ["int8", "int64", "uint8", "uint16", "uint32", "uint64", "float16"])
def test_order_of_other_types(op: str, dtype: str) -> None:
    info = np.finfo(dtype) if dtype == "float16" else np.iinfo(dtype)
    numbers = [info.min, 1, info.max]
    a, b = np.array(numbers * 3, dtype), np.repeat(np.array(numbers, dtype), 3)
    y = compute(f"y = {op} (a, b)", gives=np.bool_, a=a, b=b)
    assert y.tolist() == [ORDER[op][0](m, n) for m, n in zip(a.tolist(), b.tolist(), strict=True)]


@pytest.mark.parametrize(("op", "function"), [("And", min), ("Or", max), ("Xor", operator.ne)])
def test_logic(op: str, function: Callable[..., bool]) -> None:
    a, b = np.array([[False], [True]]), np.array([False, True])
    y = compute(f"y = {op} (a, b)", opset=7, gives=np.bool_, a=a, b=b)
    assert y.tolist() == [[function(m, n) for n in (False, True)] for m in (False, True)]


def test_not() -> None:
    y = compute("y = Not (a)", opset=7, gives=np.bool_, a=np.array([False, True]))
    assert y.tolist() == [True, False]


@pytest.mark.parametrize("opset", [9, 16])
def test_where_broadcasts_and_passes_the_gradient_on(opset: int) -> None:
    module = assert_imports(
        "q = Greater (x, b)  y = Where (q, x, b)",
        opset=opset,
        inputs={"x": (4, 6), "b": (1, 6)},
        rtol=0,
        atol=0,
    )
    x = torch.tensor([[1.0], [3.0]], requires_grad=True)
    module(x, torch.tensor([[2.0]]))[0].sum().backward()
    assert x.grad is not None
    assert x.grad.tolist() == [[0], [1]]


@pytest.mark.parametrize("dtype", ["uint16", "uint64", "bool"])
def test_where_chooses_from_other_types(dtype: str) -> None:
    q, x, z = np.array([True, False]), np.array([1, 1], dtype), np.array(0, dtype)
    assert compute("y = Where (q, x, z)", gives=dtype, q=q, x=x, z=z).tolist() == [1, 0]


@pytest.mark.parametrize("opset", [10, 20])
@pytest.mark.parametrize(
    ("attributes", "expected"),
    [
        ("", [False, True, True, False]),
        ("<detect_negative = 0>", [False, True, False, False]),
        ("<detect_positive = 0>", [False, False, True, False]),
        ("<detect_negative = 0, detect_positive = 0>", [False, False, False, False]),
    ],
)
def test_is_inf(attributes: str, expected: list[bool], opset: int) -> None:
    x = np.array([1, math.inf, -math.inf, math.nan], np.float32)
    assert compute(f"y = IsInf {attributes} (x)", opset=opset, gives=np.bool_, x=x).tolist() == expected


@pytest.mark.parametrize("opset", [9, 13, 20])
def test_is_nan(opset: int) -> None:
    x = np.array([1, math.inf, math.nan], np.float16)
    assert compute("y = IsNaN (x)", opset=opset, gives=np.bool_, x=x).tolist() == [False, False, True]


@pytest.mark.parametrize(
    "dtype",
    [ml_dtypes.float8_e4m3fn, ml_dtypes.float8_e4m3fnuz, ml_dtypes.float8_e5m2, ml_dtypes.float8_e5m2fnuz],
)
def test_8_bit_floats_are_asked_too(dtype: type) -> None:
    x = np.array([1, math.nan, math.inf], np.float32).astype(dtype)
    infinite = dtype is ml_dtypes.float8_e5m2  # the only one of them that has infinity
    assert compute("y = IsNaN (x)", opset=20, gives=np.bool_, x=x).tolist() == [False, True, not infinite]
    assert compute("y = IsInf (x)", opset=20, gives=np.bool_, x=x).tolist() == [False, False, infinite]


def test_a_mask_is_no_parameter() -> None:
    low = np.full((4,), -1e9, np.float32)
    module = imported(
        parse("q = Greater (x, low)  y = Where (q, x, low)", inputs={"x": (4,)}, initializers={"low": low})
    )
    assert not list(module.parameters())
