from __future__ import annotations

import math
from typing import Any

import ml_dtypes
import numpy as np
import onnx
import onnx_ir as ir
import pytest
import torch
from importing import assert_imports, imported, parse
from typed import compute, typed

from mpqtool.passes.errors import UnsupportedOpError

FLOAT8 = {
    17: (ml_dtypes.float8_e4m3fn, 448),
    18: (ml_dtypes.float8_e4m3fnuz, 240),
    19: (ml_dtypes.float8_e5m2, 57344),
    20: (ml_dtypes.float8_e5m2fnuz, 57344),
}
E8M0 = ml_dtypes.float8_e8m0fnu


@pytest.mark.parametrize("opset", [7, 9, 13, 19, 21, 23, 24, 25])
def test_cast(opset: int) -> None:
    assert_imports("i = Cast <to = 6> (x)  y = Cast <to = 1> (i)", opset=opset, rtol=0, atol=0)


@pytest.mark.parametrize("opset", [15, 19, 21, 23, 24])
def test_cast_like(opset: int) -> None:
    like = {"i": np.int32(0)}
    body = "j = CastLike (x, i)  y = CastLike (j, x)"
    assert_imports(body, opset=opset, initializers=like, rtol=0, atol=0)


@pytest.mark.parametrize(
    ("x", "to", "expected"),
    [
        pytest.param(np.array([1.9, -1.9], np.float32), "int8", [1, -1], id="toward-zero"),
        pytest.param(np.array([200, -1], np.int16), "int8", [-56, -1], id="higher-bits-go"),
        pytest.param(np.array([-1, 65537], np.int32), "uint16", [65535, 1], id="modulo"),
        pytest.param(np.array([0, -0.0, 0.3, math.nan], np.float64), "bool", [0, 0, 1, 1], id="truth"),
        pytest.param(np.array([1e6, -1e6], np.float32), "float16", [math.inf, -math.inf], id="overflow"),
        pytest.param(np.array([2**64 - 1], np.uint64), "float64", [2.0**64], id="uint64"),
        pytest.param(np.array([True, False]), "uint32", [1, 0], id="bool"),
        pytest.param(np.array([1.00390625], np.float32), "bfloat16", [1], id="half-to-even"),
    ],
)
def test_numbers_of_other_types(x: Any, to: str, expected: list[float]) -> None:
    dtype = getattr(ml_dtypes, to) if to == "bfloat16" else np.dtype(to)
    y = compute(f"y = Cast <to = {ir.DataType.from_numpy(np.dtype(dtype)).value}> (x)", gives=dtype, x=x)
    assert y.astype(object).tolist() == expected


@pytest.mark.parametrize("source", [np.float16, np.float32, np.float64])
@pytest.mark.parametrize("to", FLOAT8)
def test_8_bit_floats_past_the_largest(to: int, source: Any) -> None:
    dtype, largest = FLOAT8[to]
    x = np.array([1.03, -0.3, largest, largest * 1.02, 65504, -65504, math.inf, -math.inf, math.nan], source)
    y = compute(f"y = Cast <to = {to}> (x)", gives=dtype, x=x).astype(np.float32)
    rounded = x[:2].astype(dtype).astype(np.float32).tolist()
    np.testing.assert_array_equal(y[:-1], [*rounded, largest, largest, *[largest, -largest] * 2])
    assert np.isnan(y[-1])

    y = compute(f"y = Cast <to = {to}, saturate = 0> (x)", gives=dtype, x=x).astype(np.float32)
    beyond = math.inf if to == 19 else math.nan  # the only one of them that has infinity
    np.testing.assert_array_equal(y, [*rounded, largest, largest, *[beyond, -beyond] * 2, math.nan])


def test_what_rounds_to_the_largest_8_bit_float_is_not_past_it() -> None:
    x = np.array([464, 464.5, -464, -464.5], np.float32)  # 464 is halfway to the next step
    y = compute("y = Cast <saturate = 0, to = 17> (x)", gives=ml_dtypes.float8_e4m3fn, x=x)
    np.testing.assert_array_equal(y.astype(np.float32), [448, math.nan, -448, math.nan])


def test_integers_become_8_bit_floats() -> None:
    x = np.array([3, 1000, -1000], np.int32)
    y = compute("y = Cast <to = 17> (x)", gives=ml_dtypes.float8_e4m3fn, x=x)
    assert y.astype(float).tolist() == [3, 448, -448]


@pytest.mark.parametrize(
    ("attributes", "expected"),
    [
        ("", [0, 0.25, 0.5, 2, 1, 2, 2, 2.0**127]),
        ('round_mode = "down",', [0, 0.25, 0.25, 1, 1, 1, 1, 2.0**127]),
        ('round_mode = "nearest",', [0, 0.25, 0.25, 1, 1, 2, 2, 2.0**127]),
        ('round_mode = "nearest", saturate = 0,', [math.nan, 0.25, 0.25, 1, 1, 2, 2, math.nan]),
    ],
)
@pytest.mark.parametrize("source", [np.float16, np.float32])
def test_powers_of_two(attributes: str, expected: list[float], source: Any) -> None:
    x = np.array([0, 0.25, 0.3, 1.25, 1, 1.5, 1.75, math.inf, math.nan], source)
    y = compute(f"y = Cast <{attributes} to = 24> (x)", opset=24, gives=E8M0, x=x).astype(np.float64)
    if not math.isnan(expected[0]):
        expected = [2.0**-127, *expected[1:]]  # its smallest, as it has no 0
    np.testing.assert_array_equal(y, [*expected, math.nan])


def test_powers_of_two_at_the_ends_of_float32() -> None:
    x = np.array([2.0**-140, 2.0**-127, 1.5 * 2.0**-127, 2.0**127, 1.5 * 2.0**127], np.float32)
    y = compute("y = Cast <to = 24> (x)", opset=24, gives=E8M0, x=x).astype(np.float64)
    assert y.tolist() == [2.0**-127, 2.0**-127, 2.0**-126, 2.0**127, 2.0**127]
    y = compute("y = Cast <saturate = 0, to = 24> (x)", opset=24, gives=E8M0, x=x).astype(np.float64)
    np.testing.assert_array_equal(y, [math.nan, 2.0**-127, 2.0**-126, 2.0**127, math.nan])


@pytest.mark.parametrize(
    ("dtype", "expected"),
    [
        (ml_dtypes.int4, [7, -8, 3, -1, 0]),
        (ml_dtypes.uint4, [7, 8, 3, 15, 0]),
        (ml_dtypes.int2, [-1, 0, -1, -1, 0]),
        (ml_dtypes.uint2, [3, 0, 3, 3, 0]),
    ],
)
@pytest.mark.parametrize("source", [np.float32, np.int64])
def test_narrow_integers(dtype: Any, expected: list[int], source: Any) -> None:
    x = np.array([7, 8, 3.9, -1, 256], np.float32).astype(source)
    number = ir.DataType.from_numpy(np.dtype(dtype)).value
    y = compute(f"y = Cast <to = {number}> (x)", opset=25, gives=dtype, x=x)
    assert y.astype(int).tolist() == expected
    assert compute("y = Cast <to = 1> (x)", opset=25, x=y).tolist() == expected


def test_cast_like_a_value_of_unknown_type() -> None:
    x, z = np.array([1.5], np.float32), np.array([2], np.uint16)
    assert compute("t = Add (z, z)  y = CastLike (x, t)", gives=np.uint16, x=x, z=z).tolist() == [1]


def test_cast_like_a_narrow_integer() -> None:
    x, z = np.array([9], np.float32), np.zeros(1, ml_dtypes.int4)
    assert compute("y = CastLike (x, z)", gives=ml_dtypes.int4, x=x, z=z).astype(int).tolist() == [-7]


def test_the_gradient_passes() -> None:
    module = imported(parse("d = Cast <to = 11> (x)  f = Cast <to = 17> (d)  y = Cast <to = 1> (f)",
                            inputs={"x": ()}))  # fmt: skip
    x = torch.tensor([1.5, 1000.0], requires_grad=True)
    module(x)[0].sum().backward()
    assert x.grad is not None
    assert x.grad.tolist() == [1, 0]  # the second is past the largest


@pytest.mark.parametrize(
    ("op", "message"),
    [
        ("Cast <to = 23> (x)", r"Cast .*: its output is FLOAT4E2M1, which torch cannot hold. Export"),
        ("Cast <to = 8> (x)", r"Cast .*: its output is STRING, which torch cannot hold"),
        ("Cast <to = 1> (f)", r"Cast .*: its input is FLOAT4E2M1, which"),
        ("CastLike (x, f)", r"CastLike .*: its input is FLOAT4E2M1, which"),
        ("CastLike (f, x)", r"CastLike .*: its input is FLOAT4E2M1, which"),
    ],
)
def test_types_that_torch_lacks_are_refused(op: str, message: str) -> None:
    arrays = {"x": np.zeros(2, np.float32), "f": np.zeros(2, ml_dtypes.float4_e2m1fn)}
    proto = typed(f"y = {op}", opset=25, arrays=arrays)
    with pytest.raises(UnsupportedOpError, match=message):
        imported(proto)


def test_6_bit_floats_are_refused() -> None:
    proto = typed(
        f"y = Cast <to = {onnx.TensorProto.FLOAT6E2M3}> (x)", opset=28, arrays={"x": np.zeros(2, np.float32)}
    )
    with pytest.raises(UnsupportedOpError, match=r"its output is FLOAT6E2M3, which torch cannot hold"):
        imported(proto)
