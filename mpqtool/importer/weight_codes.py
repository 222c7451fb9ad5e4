"""Weights that the file has in codes, learned as the real values they stand for.

The parameter has the name of the initializer and holds real values; the graph quantizes it and
dequantizes it again, which at the start gives what the file says. ``codes_of`` is the way back.
"""

from __future__ import annotations

__all__ = [
    "codes_of",
    "fake_quantize",
    "fake_quantize_on_grid",
    "grid_notes",
    "is_learned",
    "real_values",
]

from typing import Any, NamedTuple

import numpy as np
import onnx_ir as ir
import torch
from numpy.typing import NDArray
from torch import Tensor

from mpqtool.passes import metadata
from mpqtool.passes.lower.match import dequantized_weight
from mpqtool.passes.plan import Grid
from mpqtool.quantizers import WeightQuantizer

from .codes import CODES, dequantize, quantize
from .dtypes import TORCH_DTYPES, array_from_tensor, tensor_from_array
from .registry import leaf


def real_values(value: ir.Value) -> Tensor | None:
    """What constant codes stand for, in float32, if a DequantizeLinear makes a weight of them; or None.

    Exact codes come back from it, up to 2**22: float32 has no finer numbers for those of a bias beyond.
    """
    node = _reader(value)
    if node is None:
        return None
    scale, zero_point = _scale_and_zero_point(node)
    return dequantize(_tensor(value), scale, zero_point, *_blocks(node), torch.float32)


def codes_of(value: ir.Value, real: NDArray[Any]) -> NDArray[Any] | None:
    """The codes that the torch graph computes with where its parameter has these real values; or None."""
    node = _reader(value)
    if node is None:
        return None
    assert value.dtype is not None  # or there were no reader
    numbers = torch.from_numpy(np.array(real, np.float32))
    scale, zero_point = _scale_and_zero_point(node)
    notes = grid_notes(node)
    if notes is None:
        codes = quantize(numbers, scale.float(), zero_point, int(value.dtype), *_blocks(node))
    else:
        codes = _on_grid(scale, *notes).codes(numbers) * 2**notes.shift
    return array_from_tensor(codes.to(TORCH_DTYPES[value.dtype]), value.dtype)


def is_learned(value: ir.Value) -> bool:
    """Whether the codes are a weight, so that ``real_values`` are the parameter."""
    return _reader(value) is not None


def _reader(value: ir.Value) -> ir.Node | None:
    """The DequantizeLinear that alone reads constant codes, or one of several that do the same."""
    nodes = [node for node, index in value.uses() if node.op_type == "DequantizeLinear" and index == 0]
    alone = len(nodes) == len(value.uses()) > 0 and not value.is_graph_output()
    if not alone or not _is_constant(value) or value.dtype not in CODES | {ir.DataType.INT32}:
        return None
    node = nodes[0]
    same = all(other.inputs[1:] == node.inputs[1:] and _blocks(other) == _blocks(node) for other in nodes)
    if not same or not all(_is_constant(number) for number in node.inputs[1:] if number is not None):
        return None
    scale, _ = _scale_and_zero_point(node)
    return node if bool(scale.float().all()) else None  # nothing comes back from a scale of 0


def _scale_and_zero_point(node: ir.Node) -> tuple[Tensor, Tensor | None]:
    zero_point = node.inputs[2] if len(node.inputs) > 2 else None
    return _tensor(node.inputs[1]), None if zero_point is None else _tensor(zero_point)


def _blocks(node: ir.Node) -> tuple[int, int]:
    return node.attributes.get_int("axis", 1), node.attributes.get_int("block_size", 0)


def _is_constant(value: ir.Value | None) -> bool:
    return value is not None and ir.convenience.get_const_tensor(value) is not None


def _tensor(value: ir.Value | None) -> Tensor:
    assert value is not None
    constant = ir.convenience.get_const_tensor(value)
    assert constant is not None
    return tensor_from_array(constant.numpy())


@leaf
def fake_quantize(
    real: Tensor,
    scale: Tensor,
    zero_point: Tensor | None,
    dtype: int,
    axis: int,
    block_size: int,
    result: torch.dtype | None,
) -> Tensor:
    """What remains of a weight in codes: ``dequantize(quantize(real))``.

    The gradient reaches the weight unchanged, clipped or not, as in ``WeightQuantizer``.
    """
    with torch.no_grad():
        codes = quantize(real, scale.float(), zero_point, dtype, axis, block_size)
        on_grid = dequantize(codes, scale, zero_point, axis, block_size, result)
    y: Tensor = _InPlaceOf.apply(real, on_grid)  # type: ignore[no-untyped-call]  # torch's apply has no types
    return y


class _InPlaceOf(torch.autograd.Function):
    """The second tensor, with the gradient of the first."""

    @staticmethod
    def forward(ctx: object, x: Tensor, y: Tensor) -> Tensor:
        return y

    @staticmethod
    def backward(ctx: object, grad: Tensor) -> tuple[Tensor, None]:
        return grad, None


@leaf
def fake_quantize_on_grid(
    real: Tensor, scale: Tensor, bits: tuple[int, ...], grid: str, shift: int
) -> Tensor:
    """The same for a weight that mpqtool quantized: the widths of its kernels, and odd codes, remain."""
    y: Tensor = _on_grid(scale, bits, grid, shift)(real)
    return y


def _on_grid(scale: Tensor, bits: tuple[int, ...], grid: str, shift: int) -> WeightQuantizer:
    quantizer = WeightQuantizer("", bits, Grid(grid), elements=1).to(scale.device)
    quantizer.scale = (scale * 2**shift).expand(len(bits))
    return quantizer


class GridNotes(NamedTuple):
    """Widths of the kernels, grid, and how far the codes are shifted."""

    bits: tuple[int, ...]
    grid: str
    shift: int


def grid_notes(node: ir.Node) -> GridNotes | None:
    """What the notes of a DequantizeLinear say of the weight, if it has any; or None."""
    weight = dequantized_weight(node.outputs[0]) if metadata.GRID in node.metadata_props else None
    if weight is None or len(weight.bits) != len(weight.codes):
        return None
    return GridNotes(weight.bits, weight.grid.value, int(node.metadata_props.get(metadata.SHIFT, "0")))
