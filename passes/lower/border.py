"""Lower Conv of an input with an offset and real zeros around it."""

from __future__ import annotations

__all__ = ["LowerBorderPass", "border_sums"]

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from .. import arithmetic, metadata
from ..constants import constant, scalar_of
from ..values import is_op, text_attribute, unused_name
from .build import lower_each, params, refuse, replace, zero_point
from .match import (
    Codes,
    Requantization,
    Weight,
    accumulator_fault,
    dequantized,
    dequantized_bias,
    dequantized_weight,
    requantization,
)


class LowerBorderPass(ir.passes.InPlacePass):
    """Replace ``DQ(x) -> Add(r), DQ(w)[, bias] -> Conv -> (Relu | Clip)* [-> Sub] -> Q [-> Clip]``.

    A tap on the input adds ``r * s_w * w`` to the result, one on the padding nothing: the offset adds a map.

        codes = clamp(rint(float32(acc) * float32(s_x * s_w / s_y)) + z_y)
        acc = conv(x - z_x, w) + bias + rint(r / s_x * K)
        K[o, i, j] = the sum of the weight codes of kernel o whose taps are on the input at i, j

    The map is rounded to whole steps of the accumulator, as a bias is: that moves a result by up to
    ``s_x * s_w / s_y / 2`` codes. Where codes are few and the steps large, as with 1-bit activations, that is
    several codes.

    QLinearConv has no map. The sums are those of a float32 Conv of integers where all of them are below
    2**24, proved from the weights, else of ConvInteger, whose weights are uint8 so that no CPU saturates.
    Every step behind is defined by IEEE 754; a Round right behind Conv, which changes nothing, keeps
    optimisers from folding the next one into it. QuantizeLinear of scale 1 rounds and adds the zero point.

    Left alone: a size that is not static, automatic padding, and what ``LowerConvPass`` leaves alone.
    """

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        return lower_each(model, ["Conv"], _lower)


def border_sums(
    codes: NDArray[np.integer[Any]], sizes: Sequence[int], pads: Sequence[int], strides: Sequence[int],
    dilations: Sequence[int],
) -> tuple[NDArray[np.int64], list[NDArray[np.int64]]]:  # fmt: skip
    """Sums of the weight codes whose taps are on the input, once for each different place.

    Args:
        codes: Weight codes ``(kernels, channels / group, *window)``.
        sizes: Spatial sizes of the input.
        pads: All begins, then all ends.
        strides: One per spatial axis.
        dilations: One per spatial axis.

    Returns:
        Sums ``(kernels, *places)``, and for each spatial axis the place of each position of the output.
    """
    sums, places = codes.astype(np.int64).sum(axis=1), []
    for axis, size in enumerate(sizes):
        before, after = pads[axis], pads[axis + len(sizes)]
        taps = np.arange(codes.shape[2 + axis]) * dilations[axis]
        starts = np.arange(-before, size + after - taps[-1], strides[axis])
        on_input = (starts[:, None] + taps >= 0) & (starts[:, None] + taps < size)
        different, place = np.unique(on_input, axis=0, return_inverse=True)
        sums = np.tensordot(sums, different.astype(np.int64), axes=(1, 1))  # the axis moves to the end
        places.append(place.reshape(-1))
    return sums, places


def _lower(graph: ir.Graph, node: ir.Node) -> bool:
    add = node.inputs[0].producer() if node.inputs[0] is not None else None
    if add is None or not is_op(add, "Add"):
        return False
    x, offset, weight = (
        dequantized(add.inputs[0]),
        scalar_of(add.inputs[1]),
        dequantized_weight(node.inputs[1]),
    )
    if x is None or offset is None or weight is None:
        return False
    end = requantization(node, with_offset=True)
    if end is None:
        return refuse(node, "its result is used before it is quantized")
    bias: Any = 0
    if len(node.inputs) > 2 and node.inputs[2] is not None:
        bias = dequantized_bias(node.inputs[2], x.scale * weight.scale)
        if bias is None:
            return refuse(node, "its bias is computed")
    if end.offset:
        bias = arithmetic.shift_bias(bias, x.scale, weight.scale, end.offset)
    sizes = list(x.value.shape)[2:] if x.value.shape is not None else [None]
    if text_attribute(node, "auto_pad", "NOTSET") != "NOTSET" or not all(
        isinstance(size, int) for size in sizes
    ):
        return refuse(node, "zeros are around an input with an offset, whose size is not static")
    ones = [1] * len(sizes)
    sums, places = border_sums(
        weight.codes,
        sizes,  # type: ignore[arg-type]  # integers, as was checked
        node.attributes.get_ints("pads", [0] * 2 * len(sizes)),
        node.attributes.get_ints("strides", ones),
        node.attributes.get_ints("dilations", ones),
    )
    per_kernel = (-1, *ones)
    added = arithmetic.border_bias(offset, x.scale, sums).astype(np.int64) + np.reshape(bias, per_kernel)
    flat = added.reshape(len(added), -1)
    fault = accumulator_fault(x, weight, flat.max(axis=1)) or accumulator_fault(x, weight, flat.min(axis=1))
    if fault is not None:
        return refuse(node, fault)
    return replace(node, end, _Steps(graph, node, end).run(x, weight, added.astype(np.int32), places))


class _Steps:
    """The nodes that take the place of one Conv."""

    def __init__(self, graph: ir.Graph, node: ir.Node, end: Requantization) -> None:
        self.graph, self.node, self.end = graph, node, end
        self.name = str(node.outputs[0].name)
        self.nodes: list[ir.Node] = []

    def run(
        self, x: Codes, weight: Weight, added: arithmetic.Int, places: list[NDArray[np.int64]]
    ) -> list[ir.Node]:
        end, one = self.end, constant(self.graph, "float1", np.float32(1))
        reach = max(x.zero_point, x.high - x.zero_point)
        largest = arithmetic.accumulator_bound(
            np.abs(weight.codes.astype(np.int16)), np.abs(added).reshape(len(added), -1).max(axis=1), 0, reach
        )
        x_zero, window = params(self.graph, x)[1], dict[str, Any](self.node.attributes)
        if largest < arithmetic.EXACT_BELOW:
            centered = self._step("DequantizeLinear", x.value, one, x_zero)
            acc = self._step("Conv", centered, self._real_codes(weight), **window)
            acc = self._step("Add", self._step("Round", acc), self._map(added.astype(np.float32), places))
        else:
            unsigned = (weight.codes.astype(np.int16) + 128).astype(np.uint8)
            codes = constant(self.graph, f"{weight.name}.codes_u8", unsigned)
            inputs = [x.value, codes, x_zero, zero_point(self.graph, np.uint8(128))]
            acc = self._step("ConvInteger", *inputs, dtype=ir.DataType.INT32, **window)
            self._note(weight)
            acc = self._step("Add", acc, self._map(added.astype(np.int32), places), dtype=ir.DataType.INT32)
            acc = self._step("Cast", acc, to=ir.DataType.FLOAT.value)
        factor = arithmetic.multiplier(x.scale, weight.scale, end.scale).reshape(-1, *[1] * len(places))
        real = self._step("Mul", acc, constant(self.graph, f"{self.name}.factor", factor))
        self._step("QuantizeLinear", real, one, params(self.graph, end)[1], dtype=ir.DataType.UINT8)
        return self.nodes

    def _step(
        self, op: str, *inputs: ir.Value, dtype: ir.DataType = ir.DataType.FLOAT, **attributes: Any
    ) -> ir.Value:
        made = ir.node(op, inputs, attributes, metadata_props={metadata.EXACT: "Conv"})
        self.nodes.append(made)
        value = made.outputs[0]
        value.name, value.type = (
            unused_name(self.graph, f"{self.name}.{len(self.nodes)}"),
            ir.TensorType(dtype),
        )
        return value

    def _real_codes(self, weight: Weight) -> ir.Value:
        """The codes as float32, which are kept as integers in the file."""
        codes = constant(self.graph, metadata.codes_name(weight.name), weight.codes)
        real = self._step("Cast", codes, to=ir.DataType.FLOAT.value)
        self._note(weight)
        return real

    def _note(self, weight: Weight) -> None:
        self.nodes[-1].metadata_props.update(
            {
                metadata.WEIGHT: weight.name,
                metadata.WEIGHT_BITS: metadata.digits(weight.bits),
                metadata.GRID: weight.grid.value,
            }
        )

    def _map(self, added: NDArray[Any], places: list[NDArray[np.int64]]) -> ir.Value:
        """The map over the whole output, from what is different in it."""
        value = constant(self.graph, f"{self.name}.border", added[None])
        for axis, place in enumerate(places, start=2):
            if not np.array_equal(place, np.arange(added.shape[axis - 1])):
                index = constant(self.graph, f"{self.name}.place{axis}", place.astype(np.int32))
                dtype = ir.DataType.from_numpy(added.dtype)
                value = self._step("Gather", value, index, axis=axis, dtype=dtype)
        return value
