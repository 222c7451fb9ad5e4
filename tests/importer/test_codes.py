from __future__ import annotations

import ml_dtypes
import numpy as np
import onnx_ir as ir
import pytest
import torch

from mpqtool.importer.codes import CODES, code_range, dequantize, dynamic_quantize, quantize

UINT8, INT4 = int(ir.DataType.UINT8), int(ir.DataType.INT4)


@pytest.mark.parametrize("dtype", sorted(t for t in CODES if t.is_integer()))
def test_range_is_that_of_the_type(dtype: ir.DataType) -> None:
    info = ml_dtypes.iinfo(dtype.numpy())
    assert code_range(dtype) == (info.min, info.max)


def test_range_of_a_bias_is_the_float32_numbers_within_int32() -> None:
    low, high = code_range(ir.DataType.INT32)
    assert low == -(2**31)
    assert np.float32(high) == high < 2**31 <= np.nextafter(np.float32(high), np.float32(np.inf))


def test_gradient_passes_the_rounding_and_stops_at_the_bounds() -> None:
    x = torch.tensor([-9.0, -1.1, 0.3, 0.74, 3.0, 3.8, 9.0], requires_grad=True)
    scale, zero_point = torch.tensor(0.5), torch.tensor(1, dtype=torch.int8)

    codes = quantize(x, scale, zero_point, INT4, 0, 0)
    dequantize(codes, scale, zero_point, 0, 0).sum().backward()

    assert codes.tolist() == [-8, -1, 2, 2, 7, 7, 7]
    assert x.grad is not None
    assert x.grad.tolist() == [0, 1, 1, 1, 1, 0, 0]


def test_gradient_of_the_scale_is_that_of_the_formula() -> None:
    x, scale = torch.tensor([0.3, 1.4]), torch.tensor(0.5, requires_grad=True)
    y = dequantize(quantize(x, scale, None, UINT8, 0, 0), scale, None, 0, 0)
    y.sum().backward()
    # s * rint(x / s): rint(x / s) - x / s each, with the gradient of rint 1
    assert scale.grad is not None
    torch.testing.assert_close(
        scale.grad, torch.tensor((1 - 0.6) + (3 - 2.8)), rtol=0, atol=1e-6
    )  # one rounding of float32


@pytest.mark.parametrize(
    ("dtype", "saturate", "expected"),
    [
        ("FLOAT8E4M3FN", True, [448, 448, 448, -448]),
        ("FLOAT8E4M3FN", False, [448, np.nan, np.nan, np.nan]),
        ("FLOAT8E4M3FNUZ", False, [np.nan, np.nan, np.nan, np.nan]),
        ("FLOAT8E5M2", True, [448, 448, 57344, -57344]),
        ("FLOAT8E5M2", False, [448, 448, np.inf, -np.inf]),
    ],
)
def test_numbers_beyond_the_largest_float8(dtype: str, saturate: bool, expected: list[float]) -> None:
    x = torch.tensor([464.0, 465.0, 1e9, -np.inf])
    codes = quantize(x, torch.tensor(1.0), None, int(ir.DataType[dtype]), 0, 0, saturate)
    np.testing.assert_array_equal(codes.numpy(), np.float32(expected))


def test_float8_codes_have_a_straight_through_gradient() -> None:
    x = torch.tensor([0.3, 1000.0], requires_grad=True)
    quantize(x, torch.tensor(0.5), None, int(ir.DataType.FLOAT8E4M3FN), 0, 0).sum().backward()
    assert x.grad is not None
    assert x.grad.tolist() == [2, 0]


def test_the_last_block_may_be_shorter() -> None:
    codes = torch.arange(10, dtype=torch.uint8).view(2, 5)
    scale = torch.tensor([[1.0, 10, 100], [2, 20, 200]])
    real = dequantize(codes, scale, None, 1, 2)
    assert real.tolist() == [[0, 1, 20, 30, 400], [10, 12, 140, 160, 1800]]


def test_dynamic_scale_of_zeros_is_one() -> None:
    codes, scale, zero_point = dynamic_quantize(torch.zeros(3))
    assert (codes.tolist(), scale.item(), zero_point.item()) == ([0, 0, 0], 1, 0)


def test_dynamic_quantization_has_a_gradient() -> None:
    x = torch.tensor([-1.0, 0.3, 2.0], requires_grad=True)
    codes, scale, zero_point = dynamic_quantize(x)
    dequantize(codes, scale, zero_point, 0, 0)[1].backward()
    assert x.grad is not None
    torch.testing.assert_close(x.grad[1], torch.tensor(1.0), rtol=0, atol=0)
