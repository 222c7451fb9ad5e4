"""QuantizeLinear and DequantizeLinear, so that a quantized file can be trained on.

QuantizeLinear gives its codes as float32 (see ``codes``), and the operators up to DequantizeLinear move
them and clip them as they are. Only where codes leave the graph they become the type that the file says.
A weight that is constant codes is a parameter of real values (see ``weight_codes``).
"""

from __future__ import annotations

__all__ = ["import_dequantize_linear", "import_dynamic_quantize_linear", "import_quantize_linear"]

from typing import Any

import onnx_ir as ir
import torch
from torch import Tensor

from .cast import held
from .codes import CODES, dequantize, dynamic_quantize, quantize
from .dtypes import torch_dtype
from .registry import parts, register, unsupported
from .weight_codes import fake_quantize, fake_quantize_on_grid, grid_notes, is_learned, real_values

_CONTRIB = "com.microsoft"  # ONNX Runtime's own, for 16-bit codes before opset 21


@register("QuantizeLinear", 10, 13, 19, 21, 23, 24, 25, 28, learned_arrays=("x",))
@register("QuantizeLinear", 1, domain=_CONTRIB, learned_arrays=("x",))
def import_quantize_linear(
    node: ir.Node,
    x: Tensor,
    y_scale: Tensor,
    y_zero_point: Tensor | None = None,
    *,
    axis: int = 1,
    block_size: int = 0,
    output_dtype: int = 0,
    precision: int = 0,
    saturate: int = 1,
) -> Tensor:
    """Import QuantizeLinear. It divides in float32 unless ``precision`` says other, as ONNX Runtime does.

    Raises:
        UnsupportedOpError: Torch cannot hold the codes, or their type is not known.
    """
    zero_point = node.inputs[2] if len(node.inputs) > 2 else None
    dtype: ir.DataType | None = ir.DataType.UINT8
    if output_dtype:
        dtype = ir.DataType(output_dtype)
    elif zero_point is not None:
        dtype = zero_point.dtype or node.outputs[0].dtype
    if dtype not in CODES:
        found = "not known" if dtype is None else dtype.name
        allowed = ", ".join(sorted(t.name for t in CODES))
        raise unsupported(
            node, f"the type of its codes is {found}, allowed are {allowed}. Export the model again"
        )
    if _is_zero(zero_point):
        y_zero_point = None
    divide_in = held(node, ir.DataType(precision), "precision") if precision else torch.float32
    return quantize(x, y_scale, y_zero_point, int(dtype), axis, block_size, bool(saturate), divide_in)


@register("DequantizeLinear", 10, 13, 19, 21, 23, 24, 25, 28, real=real_values)
@register("DequantizeLinear", 1, domain=_CONTRIB, real=real_values)
def import_dequantize_linear(
    node: ir.Node,
    x: Tensor,
    x_scale: Tensor,
    x_zero_point: Tensor | None = None,
    *,
    axis: int = 1,
    block_size: int = 0,
    output_dtype: int = 0,
) -> Tensor:
    """Import DequantizeLinear; ``x`` is codes, or the real values of a weight."""
    codes = node.inputs[0]
    assert codes is not None
    if len(node.inputs) > 2 and _is_zero(node.inputs[2]):
        x_zero_point = None
    result = torch_dtype(output_dtype) if output_dtype else None
    if not is_learned(codes):
        return dequantize(x, x_scale, x_zero_point, axis, block_size, result)
    notes = grid_notes(node)
    if notes is not None:
        return fake_quantize_on_grid(x, x_scale, *notes)
    assert codes.dtype is not None  # or it were not learned
    return fake_quantize(x, x_scale, x_zero_point, int(codes.dtype), axis, block_size, result)


@register("DynamicQuantizeLinear", 11)
def import_dynamic_quantize_linear(node: ir.Node, x: Tensor) -> Any:
    """Import DynamicQuantizeLinear."""
    return parts(dynamic_quantize(x), node)


def _is_zero(zero_point: ir.Value | None) -> bool:
    """Whether it is the constant 0, which needs no addition."""
    constant = None if zero_point is None else ir.convenience.get_const_tensor(zero_point)
    return constant is not None and not constant.numpy().any()
