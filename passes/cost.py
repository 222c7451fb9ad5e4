"""What a quantized network costs, from one row per layer.

Definitions, with ``o`` a kernel (one output channel's weights):

- ``MACs = |W| * positions``, of a Conv ``O * (C / groups) * kh * kw * Ho * Wo``, at batch 1; positions of
  a Gemm are the rows that a Flatten before it makes of one sample, of a recurrent layer its steps, whose
  ``W`` are those of the input and of the state.
- ``BitOPs = sum MACs[o] * B_w[o] * B_a``, ``B_a`` the width of the layer's input.
- ``C_C = sum MACs[o] * (B_w[o] * B_a + B_w[o] + B_a + log2 M)``, ``M = |W| / O`` the products in one sum.
- ``B_w,eff``: widths averaged over all weights; those that were removed from a file have 0 bits.
- ``B_a,eff``: widths averaged over the inputs of layers, the values that weights are multiplied with;
  in front of a MaxPool or Flatten, where they were quantized.
- ``WCR = 32 / B_w`` over the layers between the first and the last; ``WCR_true`` over all of them.

Sources: AdaQAT (BitOPs, WCR); IMPQ, equations 6 and 7 (``B_eff``, ``C_C``), where ``N`` counts MACs.
"""

from __future__ import annotations

__all__ = [
    "FLOAT_BITS",
    "OPERATORS",
    "RECURRENT",
    "Layer",
    "activations_eff",
    "bitops",
    "c_c",
    "elements",
    "layer",
    "layers",
    "macs",
    "positions",
    "size",
    "sized",
    "wcr",
    "wcr_true",
    "weights_eff",
    "weights_owed",
]

import dataclasses
import math
from collections.abc import Mapping, Sequence

import onnx_ir as ir
from onnx_ir.passes.common import ShapeInferencePass

from .values import array, int_attribute, is_op

FLOAT_BITS = 32
RECURRENT = ("LSTM", "GRU", "RNN")
"""Layers with two weights: of the input, and of the state."""
OPERATORS = ("Conv", "ConvTranspose", "Gemm", "MatMul", *RECURRENT)
"""What counts as a layer, if its weight is a constant."""
_ROW_BY_ROW = ("Clip", "DequantizeLinear", "Gemm", "Identity", "QGemm", "QuantizeLinear", "Relu")
"""What keeps the rows of a matrix."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Layer:
    """One node of ``OPERATORS``.

    Attributes:
        name: Its weight; of a recurrent layer that of the input.
        op: Its operator.
        input: The value that goes in, or what its codes were taken from.
        macs: Multiply-accumulates at batch 1; None if a size is not known.
        weights: Number of weights.
        kernels: Number of kernels they make.
        inputs: Number of elements of ``input``, at batch 1; None if a size is not known.
        weight_bits: One width per kernel, or one for all.
        activation_bits: Width of the input.
        removed: Number of weights that are gone from the file, with kernels of 0 bits.
        accumulator: Largest magnitude of a sum of products that any input can reach; None in float.
        saturates: Whether sums of two products could leave int16, which CPUs without VNNI add them in; None
            in float.
    """

    name: str
    op: str
    macs: int | None
    weights: int
    kernels: int
    input: str = ""
    inputs: int | None = None
    weight_bits: tuple[float, ...] = (FLOAT_BITS,)
    activation_bits: float = FLOAT_BITS
    removed: int = 0
    accumulator: int | None = None
    saturates: bool | None = None

    def __post_init__(self) -> None:
        if len(self.weight_bits) not in (1, self.kernels):
            raise ValueError(
                f"weight_bits of {self.name!r} needs 1 or {self.kernels} entries, got {len(self.weight_bits)}"
            )

    @property
    def mean_bits(self) -> float:
        """Width of a weight, averaged; kernels of a layer are of one size."""
        return sum(self.weight_bits) / len(self.weight_bits)

    @property
    def accumulator_bits(self) -> int | None:
        """Signed bits that hold every sum of products."""
        return None if self.accumulator is None else self.accumulator.bit_length() + 1


def macs(rows: Sequence[Layer]) -> int | None:
    """Multiply-accumulates of one sample; None if those of a layer are not known."""
    total = 0
    for row in rows:
        if row.macs is None:
            return None
        total += row.macs
    return total


def bitops(rows: Sequence[Layer]) -> float | None:
    """``sum MACs * B_w * B_a``; None if the MACs of a layer are not known."""
    total = 0.0
    for row in rows:
        if row.macs is None:
            return None
        total += row.macs * row.mean_bits * row.activation_bits
    return total


def c_c(rows: Sequence[Layer]) -> float | None:
    """IMPQ's computational complexity, in bit operations; None if the MACs of a layer are not known.

    A kernel of 0 bits computes nothing and counts nothing.
    """
    total = 0.0
    for row in rows:
        if row.macs is None:
            return None
        kept = [w for w in row.weight_bits if w > 0]
        a, products = row.activation_bits, math.log2(row.weights / row.kernels)
        total += row.macs / len(row.weight_bits) * sum(w * a + w + a + products for w in kept)
    return total


def weights_eff(rows: Sequence[Layer]) -> float | None:
    """``sum B_w |W| / sum |W|`` over all layers, first and last too; None without layers."""
    pairs = [(row.mean_bits, row.weights) for row in rows]
    return _mean([*pairs, *((0, row.removed) for row in rows)])


def activations_eff(rows: Sequence[Layer]) -> float | None:
    """``sum B_a |A| / sum |A|`` over the inputs of layers, each once; None if a size is not known.

    What no layer multiplies, like the operands of a sum, does not count.
    """
    inputs = {row.input: (row.activation_bits, row.inputs) for row in rows}
    pairs = [(bits, elements) for bits, elements in inputs.values() if elements is not None]
    return _mean(pairs) if len(pairs) == len(inputs) else None


def wcr(rows: Sequence[Layer]) -> float | None:
    """Weight compression as printed for AdaQAT: without the first and the last layer; all of two or less."""
    return wcr_true(rows[1:-1] if len(rows) > 2 else rows)


def wcr_true(rows: Sequence[Layer]) -> float | None:
    """``32 * sum |W| / sum B_w |W|`` over all layers; None without layers or without bits."""
    mean = weights_eff(rows)
    return FLOAT_BITS / mean if mean else None


def weights_owed(rows: Sequence[Layer]) -> int:
    """Bytes that the weights need at their widths, each tensor once and in whole bytes."""
    owed = {row.name: math.ceil(row.mean_bits * row.weights / 8) for row in rows}
    return sum(owed.values())


def sized(model: ir.Model, shapes: Mapping[str, Sequence[int]]) -> ir.Model:
    """A copy in which the inputs have the sizes of these samples; the first, the batch, stays as it is.

    Args:
        model: Left as it is.
        shapes: Shape of each input, with the batch.
    """
    copy = model.clone()
    for value in copy.graph.inputs:
        shape = shapes.get(str(value.name))
        if shape is not None and value.shape is not None and len(value.shape) == len(shape):
            value.shape = ir.Shape([*value.shape[:1], *shape[1:]])
    for node in copy.graph:
        for output in node.outputs:
            if not output.is_graph_output():
                output.shape = None
    for value in copy.graph.outputs:
        value.shape = None if value.shape is None else ir.Shape([None] * len(value.shape))
    return ShapeInferencePass(check_type=False, strict_mode=False, data_prop=True)(copy).model


def layers(model: ir.Model) -> list[Layer]:
    """One row for each of ``OPERATORS`` with a constant weight, in graph order, all float.

    Sizes come from shape inference, so a symbolic batch does no harm, while symbolic heights and
    widths leave ``macs`` and ``inputs`` None; see ``sized``. The model is left as it is.
    """
    inferred = ShapeInferencePass(check_type=False, strict_mode=False)(model.clone()).model
    weights = ((node, array(node.inputs[1])) for node in inferred.graph if is_op(node, *OPERATORS))
    return [layer(node, weight.shape) for node, weight in weights if weight is not None]


def layer(node: ir.Node, weight: tuple[int, ...]) -> Layer:
    """The row of one node of ``OPERATORS``, all float.

    Args:
        node: With the shapes of its values.
        weight: Shape of the weight.
    """
    x, held = node.inputs[0], node.inputs[1]
    assert x is not None  # the schema asks for both
    assert held is not None
    weights, places = math.prod(weight), positions(node.op_type, node)
    kernels, inputs = weight[_kernel_axis(node)], elements(x)
    if is_op(node, *RECURRENT):
        directions, rows, _ = weight
        weights, kernels = weights + _state_weights(node), directions * rows
        places, inputs = _steps(node, x.shape)
    elif is_op(node, "ConvTranspose"):  # each input element meets the weights of its channel once
        kernels, places = kernels * int_attribute(node, "group", 1), size(x.shape, 2)
    return Layer(
        name=str(held.name),
        op=node.op_type,
        input=str(x.name),
        macs=None if places is None else weights * places,
        weights=weights,
        kernels=kernels,
        inputs=inputs,
    )


def _kernel_axis(node: ir.Node) -> int:
    """The axis of a weight along which it has one kernel after the other."""
    if is_op(node, "Conv") or int_attribute(node, "transB", 0):
        return 0
    return 1 if is_op(node, "ConvTranspose") else -1


def _state_weights(node: ir.Node) -> int:
    """Number of weights between one step of a recurrent layer and the next."""
    held = node.inputs[2]
    return 0 if held is None or held.shape is None else size(held.shape, 0) or 0


def _steps(node: ir.Node, shape: ir.Shape | None) -> tuple[int | None, int | None]:
    """Steps of a recurrent layer, and values of one sample; the batch is second, or first if ``layout``."""
    if shape is None:
        return None, None
    axis = 1 if int_attribute(node, "layout", 0) else 0
    steps, features = size(shape, axis, axis + 1), size(shape, 2)
    return steps, None if steps is None or features is None else steps * features


def positions(op: str, node: ir.Node) -> int | None:
    """How often a node applies its weights to one sample, as the Conv, Gemm or MatMul that it stands for."""
    out = node.outputs[0].shape
    if op == "Gemm":
        return _rows(node.inputs[0])
    return size(out, 2) if op == "Conv" else size(out, 1, -1)


def elements(value: ir.Value) -> int | None:
    """Elements of one sample of a value; None if a size is not known."""
    count, rows = size(value.shape, 1), _rows(value)
    return None if count is None or rows is None else count * rows


def _rows(value: ir.Value | None) -> int | None:
    """How many rows of a matrix belong to one sample: what a Flatten put into them, else one."""
    node = value.producer() if value is not None else None
    while node is not None and node.op_type in _ROW_BY_ROW:
        node = node.inputs[0].producer() if node.inputs[0] is not None else None
    if node is None or not is_op(node, "Flatten"):
        return 1
    x = node.inputs[0]
    return size(x.shape, 1, int_attribute(node, "axis", 1)) if x is not None else None


def size(shape: ir.Shape | None, start: int, stop: int | None = None) -> int | None:
    """The product of some dimensions, None if one is not known."""
    if shape is None:
        return None
    dims = tuple(shape)[start:stop]
    known = [dim for dim in dims if isinstance(dim, int)]
    return math.prod(known) if len(known) == len(dims) else None


def _mean(pairs: list[tuple[float, int]]) -> float | None:
    count = sum(number for _, number in pairs)
    return sum(bits * number for bits, number in pairs) / count if count else None
