"""Read the layers of an integer file: shapes, widths, stored bytes."""

from __future__ import annotations

__all__ = ["rows", "stored"]

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from mpqtool.passes import arithmetic, cost, metadata
from mpqtool.passes.lower.build import CONTRIB
from mpqtool.passes.placement import PASS_THROUGH
from mpqtool.passes.values import array, is_op

from .integer_ops import OPERATORS

_INTEGER = {("", "QLinearConv"): "Conv", (CONTRIB, "QGemm"): "Gemm"}
_BIAS = {("", "QLinearConv"): 8, (CONTRIB, "QGemm"): 6}
_OF_TARGETS = {"Conv": "Conv", "Gemm": "Gemm", "MatMulInteger": "Gemm"}
"""What stands for the operators above in files for other targets, if it has the note of a weight."""
_ZERO = np.zeros(1, np.int64)
_FOLDED = "mpqtool.folded"
_BETWEEN = ("Cast", "Gather", "Slice", "Sub", "Transpose")
"""What stands between such an operator and codes."""


def rows(model: ir.Model) -> list[cost.Layer]:
    """One row per integer or float Conv, Gemm or MatMul with constant weights, in graph order."""
    found = []
    for node in model.graph:
        row = _integer_row(node) or _float_row(node)
        if row is not None:
            found.append(row)
    return found


def stored(model: ir.Model) -> int:
    """Bytes of every initializer that holds or describes weights, each once."""
    held: dict[str, ir.Value] = {}
    waiting = [value for node in model.graph for value in _weights(node)]
    while waiting:
        value = waiting.pop()
        if value is not None and value.is_initializer():
            held[str(value.name)] = value
        elif value is not None and (node := value.producer()) is not None:  # computed while loading
            waiting.extend(node.inputs)
    return sum(numbers.nbytes for value in held.values() if (numbers := array(value)) is not None)


def _weights(node: ir.Node) -> Sequence[ir.Value | None]:
    if metadata.WEIGHT in node.metadata_props:
        if is_op(node, "Cast", "Transpose"):
            return node.inputs[:1]
        return () if is_op(node, *_OF_TARGETS) else node.inputs[3:4]
    if is_op(node, *cost.OPERATORS) and metadata.EXACT not in node.metadata_props:
        return node.inputs[1:3] if is_op(node, *cost.RECURRENT) else node.inputs[1:2]
    return ()


def _integer_row(node: ir.Node) -> cost.Layer | None:
    op, x, weight = _operands(node)
    name, held = node.metadata_props.get(metadata.WEIGHT), _codes(weight)
    if op is None or x is None or held is None or held.ndim < 2 or (name is None and not _counts(weight)):
        return None
    owner = _owner(x)
    noted, positions = node.metadata_props.get(metadata.WEIGHT_BITS), cost.positions(op, node)
    row = cost.Layer(
        name=name or str(weight.name if weight else node.name),
        op=op,
        input=str(owner.name).removesuffix(metadata.SUFFIX),
        macs=None if positions is None else held.size * positions,
        weights=held.size,
        kernels=len(held),
        inputs=cost.elements(owner),
        weight_bits=metadata.from_digits(noted) if noted else (8,),
        activation_bits=_bits(x),
        removed=int(node.metadata_props.get(metadata.WEIGHTS, held.size)) - held.size,
    )
    return dataclasses.replace(row, **_sums(node, held, (1 << _bits(x)) - 1))


def _sums(node: ir.Node, held: NDArray[Any], highest: int) -> dict[str, Any]:
    """What is known of the accumulators, by the codes of the weight and the range of the input."""
    x_zero, zero, bias = _of_target(node) if is_op(node, *_OF_TARGETS) else _of_integers(node)
    if x_zero is None or zero is None or bias is None:
        return {}
    codes, low = held.astype(np.int64) - int(zero.reshape(-1)[0]), -int(x_zero.reshape(-1)[0])
    added = np.broadcast_to(bias.astype(np.int64).reshape(-1), len(held))
    in_float = is_op(node, "Conv", "Gemm")
    return {
        "accumulator": arithmetic.accumulator_bound(codes, added, low, max(highest + low, 0)),
        "saturates": not in_float and held.dtype == np.int8 and arithmetic.pair_saturates(codes, highest),
    }


def _of_integers(node: ir.Node) -> tuple[NDArray[Any] | None, ...]:
    """Zero points of input and weight, and the bias; None where one is no constant."""
    place = _BIAS[node.domain, node.op_type]
    bias = node.inputs[place] if len(node.inputs) > place else None
    return array(node.inputs[2]), array(node.inputs[5]), _ZERO if bias is None else array(bias)


def _of_target(node: ir.Node) -> tuple[NDArray[Any] | None, ...]:
    """The same of what stands for it in files for other targets."""
    if is_op(node, "MatMulInteger"):
        sums = [use.node for use in node.outputs[0].uses() if is_op(use.node, "Add")]
        return array(node.inputs[2]), array(node.inputs[3]), array(sums[0].inputs[1]) if sums else _ZERO
    bias = array(node.inputs[2]) if len(node.inputs) > 2 else None
    if bias is None:  # there is none, or it is added to the parts of the sum in float64
        rounded = [use.node for use in node.outputs[0].uses()]
        added = any(is_op(use.node, "Cast") for step in rounded for use in step.outputs[0].uses())
        bias = None if added else _ZERO
    return _centered_by(node.inputs[0]), _ZERO, bias


def _centered_by(value: ir.Value | None) -> NDArray[Any] | None:
    """The zero point that is taken from the codes a layer gets as real numbers."""
    node = value.producer() if value is not None else None
    while node is not None and is_op(node, *_BETWEEN):
        if str(node.outputs[0].name).endswith(metadata.SUFFIX):
            break
        if is_op(node, "Sub"):
            return array(node.inputs[1])
        value = node.inputs[0]
        node = value.producer() if value is not None else None
    return _ZERO


def _codes(value: ir.Value | None) -> NDArray[Any] | None:
    """The codes of a weight as a layer takes them, unpacked if need be; None if they are no constant."""
    node = value.producer() if value is not None else None
    if value is None or node is None:
        return array(value)
    if _FOLDED not in value.meta:
        run, inputs = OPERATORS.get((node.domain, node.op_type)), [_codes(source) for source in node.inputs]
        known = run is not None and all(numbers is not None for numbers in inputs)
        made = run(node, inputs) if run is not None and known else None
        results = made if isinstance(made, tuple) else (made,)
        for output, numbers in zip(node.outputs, results, strict=False):  # one stream holds many weights
            output.meta[_FOLDED] = numbers
    return value.meta.get(_FOLDED)


def _operands(node: ir.Node) -> tuple[str | None, ir.Value | None, ir.Value | None]:
    """The float operator that an integer layer stands for, and the codes of its input and its weight."""
    op = _INTEGER.get((node.domain, node.op_type))
    if op is not None and len(node.inputs) > 5:
        return op, node.inputs[0], node.inputs[3]
    if metadata.WEIGHT in node.metadata_props and is_op(node, *_OF_TARGETS):
        return _OF_TARGETS[node.op_type], _codes_before(node.inputs[0]), _codes_before(node.inputs[1])
    return None, None, None


def _codes_before(value: ir.Value | None) -> ir.Value | None:
    while value is not None and not str(value.name).endswith(metadata.SUFFIX):
        node = value.producer()
        if node is None or not is_op(node, *_BETWEEN):
            break
        value = node.inputs[0]
    return value


def _owner(codes: ir.Value) -> ir.Value:
    """The codes that were made of real values: those before operators that only move or pick codes."""
    owner, node = codes, codes.producer()
    while node is not None and is_op(node, *PASS_THROUGH):
        value = node.inputs[0]
        if value is None or value.is_initializer():  # a Gather from a table
            break
        owner = value if str(value.name).endswith(metadata.SUFFIX) else owner
        node = value.producer()
    return owner


def _counts(weight: ir.Value | None) -> bool:
    """Whether a Conv without a noted weight is one: an AveragePool in its form has codes of 1 alone."""
    numbers = array(weight)
    return numbers is None or bool((numbers != 1).any())


def _float_row(node: ir.Node) -> cost.Layer | None:
    real = is_op(node, *cost.OPERATORS) and metadata.EXACT not in node.metadata_props
    shape = _weight_shape(node.inputs[1]) if real else None
    if shape is None:
        return None
    row, cast = cost.layer(node, shape), _unfolded(node.inputs[1])
    if cast is not None:
        noted: str | None = cast.metadata_props[metadata.WEIGHT_BITS]
    else:  # codes in front of a layer that stays float
        maker = node.inputs[1].producer() if node.inputs[1] is not None else None
        noted = maker.metadata_props.get(metadata.BITS) if maker is not None else None
    return row if noted is None else dataclasses.replace(row, weight_bits=metadata.from_digits(noted))


def _unfolded(weight: ir.Value | None) -> ir.Node | None:
    """The Cast of the codes that a float weight is made of while loading (``KeepFloatPass``)."""
    node = weight.producer() if weight is not None else None
    while node is not None and is_op(node, "Mul", "Sub") and node.inputs[0] is not None:
        node = node.inputs[0].producer()
    noted = node is not None and is_op(node, "Cast") and metadata.WEIGHT in node.metadata_props
    return node if noted else None


def _weight_shape(value: ir.Value | None) -> tuple[int, ...] | None:
    """The shape of a weight, stored as it is, packed, or dequantized."""
    node = value.producer() if value is not None else None
    if node is not None and node.op_type == "DequantizeLinear":
        value = node.inputs[0]
    elif (cast := _unfolded(value)) is not None:
        value = cast.inputs[0]
    numbers = _codes(value)
    return None if numbers is None or numbers.ndim < 2 else numbers.shape


def _bits(codes: ir.Value) -> int:
    """The width of codes: noted on the node that makes them, or that of its clamp."""
    node = codes.producer()
    if node is None:
        return 8
    high = array(node.inputs[2]) if is_op(node, "Clip") and len(node.inputs) > 2 else None
    return int(node.metadata_props.get(metadata.BITS, 8 if high is None else int(high).bit_length()))
