from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from importing import imported
from typed import compute, typed

from mpqtool.passes.errors import UnsupportedOpError

UNSIGNED = ["uint8", "uint16", "uint32", "uint64"]
SIGNED = ["int8", "int16", "int32", "int64"]


@pytest.mark.parametrize("dtype", [*UNSIGNED, *SIGNED])
@pytest.mark.parametrize(
    ("op", "function"),
    [("BitwiseAnd", operator.and_), ("BitwiseOr", operator.or_), ("BitwiseXor", operator.xor)],
)
def test_bitwise(op: str, function: Callable[[int, int], int], dtype: str) -> None:
    info = np.iinfo(dtype)
    a, b = [info.min, 12, info.max], [info.max, 10, 1]
    y = compute(f"y = {op} (a, b)", opset=18, gives=dtype, a=np.array(a, dtype), b=np.array(b, dtype))
    assert y.tolist() == list(map(function, a, b))


@pytest.mark.parametrize("dtype", [*UNSIGNED, *SIGNED])
def test_bitwise_not(dtype: str) -> None:
    info = np.iinfo(dtype)
    y = compute("y = BitwiseNot (a)", opset=18, gives=dtype, a=np.array([info.min, 5], dtype))
    assert y.tolist() == [info.max, info.min + info.max - 5]


@pytest.mark.parametrize("opset", [11, 28])
@pytest.mark.parametrize("dtype", UNSIGNED)
def test_unsigned_numbers_shift_to_0(dtype: str, opset: int) -> None:
    bits, high = np.iinfo(dtype).bits, np.iinfo(dtype).max
    x, places = np.full(5, high, dtype), np.array([0, 1, bits - 1, bits, high], dtype)
    y = compute('y = BitShift <direction = "RIGHT"> (x, n)', opset=opset, gives=dtype, x=x, n=places)
    assert y.tolist() == [high, high // 2, 1, 0, 0]
    y = compute('y = BitShift <direction = "LEFT"> (x, n)', opset=opset, gives=dtype, x=x, n=places)
    assert y.tolist() == [high, high - 1, 1 << (bits - 1), 0, 0]


@pytest.mark.parametrize("dtype", SIGNED)
def test_signed_numbers_keep_their_sign_to_the_right(dtype: str) -> None:
    bits = np.iinfo(dtype).bits
    x = np.array([[-100], [100]], dtype)
    places = np.array([0, 2, bits - 1, bits, 127, -1], dtype)
    y = compute('y = BitShift <direction = "RIGHT"> (x, n)', opset=28, gives=dtype, x=x, n=places)
    assert y.tolist() == [[-100, -25, -1, -1, -1, -1], [100, 25, 0, 0, 0, 0]]
    x = np.array([-1, 3, 3, 3], dtype)
    places = np.array([1, bits - 1, bits, -1], dtype)
    y = compute('y = BitShift <direction = "LEFT"> (x, n)', opset=28, gives=dtype, x=x, n=places)
    assert y.tolist() == [-2, np.iinfo(dtype).min, 0, 0]


@pytest.mark.parametrize(
    ("source", "target"),
    [
        (np.float32, np.int32),
        (np.uint16, np.float16),
        (np.uint16, ml_dtypes.bfloat16),
        (np.float64, np.uint64),
        (np.int64, np.complex64),
        (np.int8, ml_dtypes.float8_e4m3fn),
        (np.uint8, np.int8),
    ],
)
@pytest.mark.parametrize("shape", [(), (2, 3)])
def test_bit_cast(source: Any, target: Any, shape: tuple[int, ...]) -> None:
    x = (np.arange(6, dtype=np.int8) - 3).astype(source)[: 6 if shape else 1].reshape(shape)
    number = typed("y = Abs (x)", opset=21, gives=target, arrays={"x": x}).graph.output[0].type
    y = compute(f"y = BitCast <to = {number.tensor_type.elem_type}> (x)", opset=26, gives=target, x=x)
    np.testing.assert_array_equal(y.view(np.uint8) if shape else y.tobytes(),
                                  x.view(np.uint8) if shape else x.tobytes())  # fmt: skip


@pytest.mark.parametrize(
    ("source", "target"), [(ml_dtypes.int4, ml_dtypes.uint4), (ml_dtypes.uint4, ml_dtypes.int4)]
)
def test_bit_cast_of_half_bytes(source: Any, target: Any) -> None:
    x = np.array([1, -3 if source is ml_dtypes.int4 else 13], source)
    number = {ml_dtypes.uint4: 21, ml_dtypes.int4: 22}[target]
    y = compute(f"y = BitCast <to = {number}> (x)", opset=26, gives=target, x=x)
    assert y.astype(int).tolist() == [1, 13 if target is ml_dtypes.uint4 else -3]


@pytest.mark.parametrize(
    ("source", "number", "message"),
    [
        (np.float32, 7, r"to=INT64 has 64 bits, allowed are types of 32"),
        (np.int8, 22, r"to=INT4 has 4 bits, allowed are types of 8"),
        (ml_dtypes.uint4, 23, r"its output is FLOAT4E2M1, which torch cannot hold"),
        (ml_dtypes.float4_e2m1fn, 21, r"its input is FLOAT4E2M1, which torch cannot hold"),
    ],
)
def test_bit_cast_is_refused(source: Any, number: int, message: str) -> None:
    proto = typed(f"y = BitCast <to = {number}> (x)", opset=26, arrays={"x": np.zeros(2, source)})
    with pytest.raises(UnsupportedOpError, match=message):
        imported(proto)
