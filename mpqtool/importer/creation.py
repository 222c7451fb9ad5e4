"""Operators that make tensors of what is known beforehand, or of sizes."""

from __future__ import annotations

__all__ = [
    "eye_like",
    "filled",
    "import_constant",
    "import_constant_of_shape",
    "import_eye_like",
    "import_one_hot",
    "import_range",
    "number_range",
    "one_hot",
]

import math
from collections.abc import Sequence
from typing import Any

import onnx_ir as ir
import torch
from torch import Tensor

from .cast import held
from .dtypes import tensor_from_array, torch_dtype
from .indexing import from_the_front
from .registry import integers, leaf, register


@register("Constant", 1, 9, 11, 12, 13, 19, 21, 23, 24, 25)
def import_constant(
    node: ir.Node,
    *,
    value: ir.TensorProtocol | None = None,
    value_float: float | None = None,
    value_floats: Sequence[float] | None = None,
    value_int: int | None = None,
    value_ints: Sequence[int] | None = None,
) -> Tensor:
    """Import Constant.

    Raises:
        UnsupportedOpError: Torch cannot hold its element type.
    """
    constant = ir.convenience.get_const_tensor(node.outputs[0])
    assert constant is not None, "get_const_tensor knows every attribute there is here"
    held(node, ir.DataType(constant.dtype), "value")
    return tensor_from_array(constant.numpy())


@register("ConstantOfShape", 9, 20, 21, 23, 24, 25, known=("shape",))
def import_constant_of_shape(node: ir.Node, shape: Any, *, value: ir.TensorProtocol | None = None) -> Tensor:
    """Import ConstantOfShape.

    Raises:
        UnsupportedOpError: Torch cannot hold the element type of the value.
    """
    if value is None:
        return filled(shape, 0.0, torch.float32)
    return filled(shape, value.numpy().item(), held(node, ir.DataType(value.dtype), "value"))


@leaf
def filled(shape: Tensor | tuple[int, ...], value: complex, dtype: torch.dtype) -> Tensor:
    """One value everywhere."""
    device = shape.device if isinstance(shape, Tensor) else None
    return torch.full(integers(shape), value, dtype=dtype, device=device)


@register("Range", 11, 27)
def import_range(
    node: ir.Node, start: Tensor, limit: Tensor, delta: Tensor, *, stash_type: int = 1
) -> Tensor:
    """Import Range; 16-bit floats are computed in the type that ``stash_type`` names."""
    return number_range(start, limit, delta, torch_dtype(stash_type))


@leaf
def number_range(start: Tensor, limit: Tensor, delta: Tensor, stash: torch.dtype | None) -> Tensor:
    """``start + i * delta`` for every i from 0 on that stays before ``limit``."""
    dtype = start.dtype
    if dtype in (torch.float16, torch.bfloat16):
        start, limit, delta = start.to(stash), limit.to(stash), delta.to(stash)
    # In double precision, as ONNX Runtime counts; int64 divides exactly.
    distance, step = (limit - start).item(), delta.item()
    count = math.ceil(distance / step) if dtype.is_floating_point else -(-distance // step)
    steps = torch.arange(max(int(count), 0), device=start.device).to(start.dtype)
    return (start.reshape(()) + steps * delta.reshape(())).to(dtype)


@register("EyeLike", 9, 22)
def import_eye_like(node: ir.Node, x: Tensor, *, dtype: int | None = None, k: int = 0) -> Tensor:
    """Import EyeLike.

    Raises:
        UnsupportedOpError: Torch cannot hold ``dtype``.
    """
    return eye_like(x, None if dtype is None else held(node, ir.DataType(dtype), "output"), k)


@leaf
def eye_like(x: Tensor, dtype: torch.dtype | None, k: int) -> Tensor:
    """A matrix of the shape of ``x`` with ones on diagonal ``k``."""
    rows, columns = (torch.arange(size, device=x.device) for size in x.shape)
    return (columns - rows.unsqueeze(1) == k).to(dtype or x.dtype)


@register("OneHot", 9, 11, 28, known=("depth",))
def import_one_hot(node: ir.Node, indices: Tensor, depth: Any, values: Tensor, *, axis: int = -1) -> Tensor:
    """Import OneHot."""
    return one_hot(indices, depth, values, axis)


@leaf
def one_hot(indices: Tensor, depth: Tensor | tuple[float, ...] | float, values: Tensor, axis: int) -> Tensor:
    """``values[1]`` at each index on the new ``axis``, and ``values[0]`` elsewhere, as for an index outside.

    Args:
        indices: Any shape; may count from the end, and may be floats.
        depth: The size of the axis, a number or one in a list.
        values: ``(2,)``.
        axis: Where the result is to have it.
    """
    size = int(torch.as_tensor(depth))
    axis = axis % (indices.ndim + 1)
    classes = torch.arange(size, device=indices.device).reshape(-1, *[1] * (indices.ndim - axis))
    hit = from_the_front(indices, size).unsqueeze(axis) == classes
    return torch.where(hit, values[1], values[0])
