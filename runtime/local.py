"""Hold every layer of an integer file against the QDQ file, on the same inputs."""

from __future__ import annotations

__all__ = ["LocalCheck"]

from collections.abc import Collection, Mapping
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray
from onnx_ir.passes import common

from mpqtool.passes.constants import scalar_of
from mpqtool.passes.lower.keep_float import KeepFloatPass
from mpqtool.passes.pipelines import canonical_qdq
from mpqtool.passes.placement import is_pass_through
from mpqtool.passes.values import array, int_attribute, is_op

from .session import make_session

Array = NDArray[Any]

_FED = ".fed"
_MANY = 1024
"""Over how many codes a Softmax of unknown size may sum: 3 codes may differ then, at scale 1/256."""


class LocalCheck:
    """The QDQ file, cut at the codes: each layer computes from what the integer file gave the layers before.

    Nothing in it comes from lowering: ONNX Runtime runs the operators of the QDQ file as written. Consumers
    of codes read those that they are fed, and the codes that the layers make of them are the outputs. So a
    difference is that of one layer, and does not add up: 1 code is rounding, more is a fault. Operators that
    were to stay float are the exception: the pairs between them go away here as they do in lowering.

    What may differ by more than 1 code, see ``allowed``: a bias that is not whole steps of the accumulator,
    and Softmax.

    Args:
        qdq: With named codes; left as it is.
        float_layers: What stays float; see ``KeepFloatPass``.
        shifts: By name of codes: what is added to those of the QDQ file.
        values: Real values that are defined to the bit, by name: cut, too.
        islands: Codes behind float operators.

    Attributes:
        codes: Names of the codes that are compared.
        values: Names of the real values that are compared: those that are defined to the bit, and outputs.
        allowed: By name: how many codes may be between them; of real values, how far apart they may be.
    """

    def __init__(
        self,
        qdq: ir.Model,
        float_layers: Mapping[str, str],
        shifts: Mapping[str, int],
        *,
        values: Collection[str],
        islands: Collection[str],
    ) -> None:
        model = qdq.clone()
        if float_layers:
            model = KeepFloatPass(float_layers, ignore_unknown=True)(canonical_qdq(model)).model
            common.RemoveUnusedNodesPass()(model)
            shifts = dict.fromkeys(shifts, 0)  # they are uint8 from here on
        graph = model.graph
        made = {str(v.name): v for node in graph for v in node.outputs}
        self.codes = tuple(name for name in made if name in shifts)
        real = {str(v.name) for v in graph.outputs if v.dtype is ir.DataType.FLOAT}
        self.values = tuple(name for name in made if name in real or name in values)
        self._shifts = shifts
        self._types: dict[str, Any] = {}
        self.allowed: dict[str, float] = {}
        for name in (*self.codes, *(name for name in self.values if name in values)):
            value = made[name]
            steps = 0.0 if name in islands else _unsettled(value)
            self.allowed[name] = 1.0 + np.floor(steps) if name in shifts else steps
            fed = ir.Value(name=name + _FED, type=ir.TensorType(_dtype(value)))
            self._types[name] = _dtype(value).numpy()
            _divert(graph, value, fed)
            graph.inputs.append(fed)
            if not value.is_graph_output():
                graph.outputs.append(value)
        self._session = make_session(ir.to_proto(model).SerializeToString(), level="disabled", threads=1)
        self._names = [output.name for output in self._session.get_outputs()]

    def run(
        self, feeds: Mapping[str, Array], given: Mapping[str, Array], whole: Mapping[str, Array],
        kept: Mapping[str, NDArray[np.integer[Any]]],
    ) -> dict[str, Array]:  # fmt: skip
        """Compute each layer.

        Args:
            feeds: The graph inputs by name.
            given: What the integer file computed.
            whole: The codes of the QDQ file by name, shifted: those of channels that were removed are
                constants, and taken from here.
            kept: By name of codes that lost channels: which are left, along axis 1.

        Returns:
            Codes as ours, with the channels that are left, and real outputs.
        """
        inputs = dict(feeds)
        for name, dtype in self._types.items():
            codes = given[name]
            if name in kept:
                codes = whole[name].copy()
                codes[:, kept[name]] = given[name]
            if name in self._shifts:
                codes = codes.astype(np.int16) - self._shifts[name]
            inputs[name + _FED] = np.asarray(codes, dtype)  # of rank 0 too
        found = dict(zip(self._names, self._session.run(self._names, inputs), strict=True))
        for name in self.codes:
            codes = (found[name].astype(np.int16) + self._shifts[name]).astype(np.uint8)
            found[name] = codes.take(kept[name], axis=1) if name in kept else codes
        return found


def _dtype(value: ir.Value) -> ir.DataType:
    if value.dtype is not None:
        return value.dtype
    node = _quantize(value)
    zero = array(node.inputs[2]) if node is not None and len(node.inputs) > 2 else None
    if node is None:
        return ir.DataType.FLOAT
    return ir.DataType.UINT8 if zero is None else ir.DataType.from_numpy(zero.dtype)


def _quantize(codes: ir.Value) -> ir.Node | None:
    """The QuantizeLinear that makes codes, before the Clip if there is one."""
    node = codes.producer()
    if node is not None and node.op_type == "Clip" and node.inputs[0] is not None:
        node = node.inputs[0].producer()
    return node if node is not None and node.op_type == "QuantizeLinear" else None


def _divert(graph: ir.Graph, value: ir.Value, fed: ir.Value) -> None:
    """Let all users of a value read another one; so those of the same codes, made a second time."""
    grid = _grid(value)
    source = _quantize(value)
    twins = [value]
    if grid is not None and source is not None and source.inputs[0] is not None:
        others = (use.node for use in source.inputs[0].uses() if use.node is not source)
        twins += [end for node in others if is_op(node, "QuantizeLinear") for end in _ends(node)
                  if _grid(end) == grid]  # fmt: skip
    for twin in twins:
        for use in tuple(twin.uses()):
            use.node.replace_input_with(use.idx, fed)


def _ends(quantize: ir.Node) -> list[ir.Value]:
    codes = quantize.outputs[0]
    clips = [use.node.outputs[0] for use in codes.uses() if is_op(use.node, "Clip")]
    return clips if len(clips) == len(codes.uses()) else [] if clips else [codes]


def _grid(codes: ir.Value) -> tuple[Any, ...] | None:
    """Scale, zero point and bounds of codes."""
    node, clip = _quantize(codes), codes.producer()
    if node is None or clip is None:
        return None
    constants = [*node.inputs[1:], *(clip.inputs[1:] if clip is not node else ())]
    found = tuple(scalar_of(value) for value in constants)
    return None if any(number is None for number in found) else found


def _origin(value: ir.Value | None) -> ir.Node | None:
    """The operator that computes a value, before clamps, moves, an offset taken off, and quantization."""
    node = value.producer() if value is not None else None
    while node is not None and (is_pass_through(node) or is_op(node, "Sub", "QuantizeLinear", "Clip")):
        node = node.inputs[0].producer() if node.inputs[0] is not None else None
    return node


def _unsettled(value: ir.Value) -> float:
    """How far the integer result may be from the real one before it is rounded, in units of the result.

    An accumulator holds whole steps of ``s_x * s_w``: a real bias, and each offset, is rounded to half of
    one. Codes of Add have ratios on a grid, see ``arithmetic.add_ratios``; exponentials in Softmax are
    integers, see ``functions.softmax_codes``.
    """
    quantize, node = _quantize(value), _origin(value)
    unit = 1.0 if quantize is None else _largest(quantize.inputs[1])
    if node is None or not unit:
        return 0.0
    if is_op(node, "Conv", "ConvTranspose", "Gemm", "MatMul"):
        x, shifted = _scale(node.inputs[0])
        w, _ = _scale(node.inputs[1])
        bias = node.inputs[2] if len(node.inputs) > 2 else None
        taken_off = quantize is not None and is_op(quantize.inputs[0].producer(), "Sub")  # type: ignore[union-attr]
        return 0.5 * x * w / unit * (_in_steps(bias, x, node) + int(shifted) + int(taken_off))
    if is_op(node, "Softmax") and quantize is not None:
        shape, axis = node.outputs[0].shape, int_attribute(node, "axis", -1)
        count = shape[axis] if shape is not None else None
        return ((count if isinstance(count, int) else _MANY) + 1) / 2**17 / unit
    if is_op(node, "Add") and quantize is not None:
        ratios = sum(_scale(x)[0] for x in node.inputs) / unit
        return 255 * 2.0 ** (int(np.frexp(ratios + 1)[1]) - 16)
    return 0.0


def _in_steps(bias: ir.Value | None, x: float, node: ir.Node) -> int:
    """How often a bias is rounded to steps of the accumulator: not at all if it has these scales already."""
    made, weight = (v.producer() if v is not None else None for v in (bias, node.inputs[1]))
    if bias is None:
        return 0
    if made is None or weight is None or len(made.inputs) < 2 or len(weight.inputs) < 2:
        return 1
    steps, scales = array(made.inputs[1]), array(weight.inputs[1])
    if steps is None or scales is None:
        return 1
    unit, held = np.broadcast_arrays(np.float32(x) * scales.reshape(-1), steps.reshape(-1))
    return int(not np.array_equal(unit, held))


def _scale(value: ir.Value | None) -> tuple[float, bool]:
    """The largest scale of a dequantized value, and whether an offset is added to it."""
    node = value.producer() if value is not None else None
    while node is not None and is_pass_through(node):
        node = node.inputs[0].producer() if node.inputs[0] is not None else None
    offset = is_op(node, "Add") and array(node.inputs[1]) is not None  # type: ignore[union-attr]
    if node is not None and offset:
        node = node.inputs[0].producer() if node.inputs[0] is not None else None
    if node is None or node.op_type != "DequantizeLinear":
        return 0.0, offset
    return _largest(node.inputs[1]), offset


def _largest(value: ir.Value | None) -> float:
    numbers = array(value)
    return 0.0 if numbers is None else float(numbers.max(initial=0))
