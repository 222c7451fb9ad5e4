"""Read the layers of an integer file: shapes, widths, stored bytes."""

from __future__ import annotations

__all__ = ["rows", "stored", "values"]

import math
from collections.abc import Sequence

import onnx_ir as ir

from mpqtool.passes import cost, metadata
from mpqtool.passes.lower.build import CONTRIB
from mpqtool.passes.placement import PASS_THROUGH
from mpqtool.passes.values import array, is_op

_INTEGER = {("", "QLinearConv"): "Conv", (CONTRIB, "QGemm"): "Gemm"}


def rows(model: ir.Model) -> list[cost.Layer]:
    """One row per integer or float Conv, Gemm or MatMul with constant weights, in graph order."""
    found = []
    for node in model.graph:
        row = _integer_row(node) or _float_row(node)
        if row is not None:
            found.append(row)
    return found


def values(model: ir.Model) -> list[tuple[int, int | None]]:
    """Width and elements of one sample of every quantized value, but those that only move codes."""
    found = []
    for node in model.graph:
        if node.domain == metadata.DOMAIN:  # it makes weight codes
            continue
        codes, source = node.outputs[0], node.inputs[0] if node.inputs else None
        moved = node.op_type in PASS_THROUGH and source is not None and _is_codes(source)
        if _is_codes(codes) and not moved:
            found.append((_bits(codes), cost.size(codes.shape, 1)))
    return found


def _is_codes(value: ir.Value) -> bool:
    return str(value.name).endswith(metadata.SUFFIX) and not value.is_initializer()


def stored(model: ir.Model) -> int:
    """Bytes of every initializer that holds or describes weights, each once."""
    held: dict[str, ir.Value] = {}
    for node in model.graph:
        for value in _weights(node):
            unpack = value.producer() if value is not None else None
            for source in (value,) if unpack is None else unpack.inputs:
                if source is not None and source.is_initializer():
                    held[str(source.name)] = source
    return sum(numbers.nbytes for value in held.values() if (numbers := array(value)) is not None)


def _weights(node: ir.Node) -> Sequence[ir.Value | None]:
    if metadata.WEIGHT in node.metadata_props:
        return node.inputs[3:4]
    if is_op(node, *cost.OPERATORS):
        return node.inputs[1:3] if is_op(node, *cost.RECURRENT) else node.inputs[1:2]
    return ()


def _integer_row(node: ir.Node) -> cost.Layer | None:
    op = _INTEGER.get((node.domain, node.op_type))
    name = node.metadata_props.get(metadata.WEIGHT)
    shape = _weight_shape(node.inputs[3]) if op is not None and len(node.inputs) > 5 else None
    if op is None or shape is None or (name is None and not _counts(node)):
        return None
    x, weights = node.inputs[0], math.prod(shape)
    assert x is not None
    noted = node.metadata_props.get(metadata.WEIGHT_BITS)
    positions = cost.positions(op, node.outputs[0].shape)
    return cost.Layer(
        name=name or str(node.inputs[3].name if node.inputs[3] else node.name),
        op=op,
        input=str(x.name).removesuffix(metadata.SUFFIX),
        macs=None if positions is None else weights * positions,
        weights=weights,
        kernels=shape[0],
        inputs=cost.size(x.shape, 1),
        weight_bits=metadata.from_digits(noted) if noted else (8,),
        activation_bits=_bits(x),
    )


def _counts(node: ir.Node) -> bool:
    """Whether a Conv without a noted weight is one: an AveragePool in its form has codes of 1 alone."""
    numbers = array(node.inputs[3])
    return numbers is None or bool((numbers != 1).any())


def _float_row(node: ir.Node) -> cost.Layer | None:
    shape = _weight_shape(node.inputs[1]) if is_op(node, *cost.OPERATORS) else None
    return None if shape is None else cost.layer(node, shape)


def _weight_shape(value: ir.Value | None) -> tuple[int, ...] | None:
    """The shape of a weight, stored as it is, packed, or dequantized."""
    node = value.producer() if value is not None else None
    if node is not None and node.domain == metadata.DOMAIN:
        numbers = array(node.inputs[2])
        return None if numbers is None else tuple(int(size) for size in numbers)
    if node is not None and node.op_type == "DequantizeLinear":
        value = node.inputs[0]
    numbers = array(value)
    return None if numbers is None or numbers.ndim < 2 else numbers.shape


def _bits(codes: ir.Value) -> int:
    """The width of codes, noted on the node that makes them."""
    node = codes.producer()
    return int(node.metadata_props.get(metadata.BITS, "8")) if node is not None else 8
