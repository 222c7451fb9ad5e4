"""Element types of ONNX, in torch and in numpy."""

from __future__ import annotations

__all__ = ["TORCH_DTYPES", "array_from_tensor", "tensor_from_array", "torch_dtype"]

from typing import Any

import numpy as np
import onnx_ir as ir
import torch
from numpy.typing import NDArray
from torch import Tensor

TORCH_DTYPES: dict[ir.DataType, torch.dtype] = {
    ir.DataType.BFLOAT16: torch.bfloat16,
    ir.DataType.BOOL: torch.bool,
    ir.DataType.COMPLEX64: torch.complex64,
    ir.DataType.COMPLEX128: torch.complex128,
    ir.DataType.DOUBLE: torch.float64,
    ir.DataType.FLOAT: torch.float32,
    ir.DataType.FLOAT16: torch.float16,
    ir.DataType.FLOAT8E4M3FN: torch.float8_e4m3fn,
    ir.DataType.FLOAT8E4M3FNUZ: torch.float8_e4m3fnuz,
    ir.DataType.FLOAT8E5M2: torch.float8_e5m2,
    ir.DataType.FLOAT8E5M2FNUZ: torch.float8_e5m2fnuz,
    ir.DataType.FLOAT8E8M0: torch.float8_e8m0fnu,
    ir.DataType.INT2: torch.int8,
    ir.DataType.INT4: torch.int8,
    ir.DataType.INT8: torch.int8,
    ir.DataType.INT16: torch.int16,
    ir.DataType.INT32: torch.int32,
    ir.DataType.INT64: torch.int64,
    ir.DataType.UINT2: torch.uint8,
    ir.DataType.UINT4: torch.uint8,
    ir.DataType.UINT8: torch.uint8,
    ir.DataType.UINT16: torch.uint16,
    ir.DataType.UINT32: torch.uint32,
    ir.DataType.UINT64: torch.uint64,
}
"""The torch type that holds each ONNX type. Torch has no 2- and 4-bit integers: a byte carries each.

FLOAT4E2M1 and STRING are missing: torch has nothing that could hold them.
"""

_OF_ML_DTYPES = "V"  # numpy's kind of a type it does not know itself, as bfloat16


def torch_dtype(number: int) -> torch.dtype | None:
    """The torch type that holds the ONNX type of this number (``TensorProto.DataType``), or None."""
    return TORCH_DTYPES.get(ir.DataType(number))


def tensor_from_array(array: NDArray[Any]) -> Tensor:
    """A tensor of the same numbers, in memory of its own.

    Raises:
        TypeError: Torch cannot hold the type.
    """
    onnx_dtype = ir.DataType.from_numpy(array.dtype)
    dtype = TORCH_DTYPES.get(onnx_dtype)
    if dtype is None:
        raise TypeError(f"torch has no type for {onnx_dtype.name}")
    if onnx_dtype.bitwidth < 8 and dtype != torch.bool:
        return torch.from_numpy(array.astype(np.int8 if dtype.is_signed else np.uint8))
    if array.dtype.kind == _OF_ML_DTYPES or array.dtype.isbuiltin != 1:
        bits = np.array(array, order="C").view(f"u{array.itemsize}")
        return torch.from_numpy(bits).view(dtype)
    return torch.from_numpy(np.array(array, order="C"))


def array_from_tensor(tensor: Tensor, dtype: ir.DataType) -> NDArray[Any]:
    """An array of the ONNX type that the tensor holds or carries."""
    tensor = tensor.detach().cpu().contiguous()
    if dtype.bitwidth < 8 and dtype != ir.DataType.BOOL:
        return tensor.numpy().astype(dtype.numpy())
    if tensor.dtype == torch.bfloat16 or (tensor.dtype.itemsize == 1 and tensor.is_floating_point()):
        unsigned = {1: torch.uint8, 2: torch.uint16}[tensor.dtype.itemsize]
        return tensor.view(unsigned).numpy().view(dtype.numpy())
    return tensor.numpy()
