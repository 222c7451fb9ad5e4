"""Make activations uint8 from code 0 on."""

from __future__ import annotations

__all__ = ["UnsignActivationsPass", "code_shift", "code_shifts", "codes_of"]

import dataclasses
import logging

import numpy as np
import onnx_ir as ir

from ... import metadata
from ...constants import constant, scalar_of
from ...values import array, is_op, only_user
from ..build import CONTRIB

logger = logging.getLogger(__name__)

_LIMITS = {ir.DataType.INT8: (-128, 127), ir.DataType.UINT8: (0, 255)}


@dataclasses.dataclass(frozen=True)
class _Pair:
    """``QuantizeLinear [-> Clip]`` and the DequantizeLinear nodes behind it; what is added to the codes."""

    quantize: ir.Node
    clip: ir.Node | None
    ends: tuple[ir.Node, ...]
    low: int
    high: int
    shift: int

    @property
    def bits(self) -> int:
        """The width of the codes once they are shifted."""
        return max((self.high + self.shift).bit_length(), 1)


class UnsignActivationsPass(ir.passes.InPlacePass):
    """Store the codes of an activation as uint8, the smallest one as 0.

    Before: ``QuantizeLinear (x, s, z:int8) -> Clip (-8, 7) -> DequantizeLinear (s, z:int8)``
    After:  ``QuantizeLinear (x, s, z + 8:uint8) -> Clip (0, 15) -> DequantizeLinear (s, z + 8)``, noted as 4
    bits wide

    The same real numbers: ``s * (code + 8 - (z + 8))``. Rounding comes before the zero point is added.

    Left alone: codes that are anything else than dequantized, such as graph outputs, or have more than
    one scale; codes of other types than int8 and uint8.
    """

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        changed = sum(_unsign(model.graph, node) for node in model.graph if is_op(node, "QuantizeLinear"))
        if changed:
            logger.info("Made the codes of %d activations uint8", changed)
        return ir.passes.PassResult(model, modified=bool(changed))


def code_shift(quantize: ir.Node) -> int | None:
    """What the pass adds to the codes of a QuantizeLinear: 0 or more; None if it would leave it alone."""
    pair = _match(quantize)
    return None if pair is None else pair.shift


def code_shifts(model: ir.Model) -> dict[str, int]:
    """By the name of the codes, what lowering adds to those of each activation that it reads."""
    found = {}
    for node in model.graph:
        if node.op_type == "QuantizeLinear":
            shift = code_shift(node)
            found[str(codes_of(node).name)] = 0 if shift is None else shift
    return found


def codes_of(quantize: ir.Node) -> ir.Value:
    """The codes that a QuantizeLinear makes, behind the Clip if there is one."""
    clip = only_user(quantize.outputs[0])
    return clip.outputs[0] if clip is not None and is_op(clip, "Clip") else quantize.outputs[0]


def _match(quantize: ir.Node) -> _Pair | None:
    if array(quantize.inputs[0]) is not None or scalar_of(quantize.inputs[1]) is None:
        return None
    zero, codes = _zero_point(quantize), codes_of(quantize)
    if zero is None:
        return None
    limits = _LIMITS[ir.DataType.from_numpy(zero.dtype)]
    low, high = limits
    clip = codes.producer() if codes is not quantize.outputs[0] else None
    if clip is not None:
        bounds = [scalar_of(value) for value in clip.inputs[1:]]
        if len(bounds) != 2 or bounds[0] is None or bounds[1] is None:
            return None
        low, high = int(bounds[0]), int(bounds[1])
    ends = tuple(use.node for use in codes.uses())
    if codes.is_graph_output() or not ends:
        return None
    zeros = [zero, *(_zero_point(end) if _dequantizes(end) else None for end in ends)]
    if any(z is None or z.dtype != zero.dtype for z in zeros):
        return None
    shift = -low if zero.dtype == np.int8 else 0
    if any(int(z) + shift < 0 for z in zeros if z is not None):  # real 0 lies below the smallest code
        shift = -limits[0]
    return _Pair(quantize, clip, ends, low, high, shift)


def _dequantizes(node: ir.Node) -> bool:
    return node.op_type == "DequantizeLinear" and node.domain in ("", CONTRIB)


def _zero_point(node: ir.Node) -> np.generic | None:
    """The 8-bit zero point of a Q or DQ; None if it has another type, or is not one constant."""
    zero = scalar_of(node.inputs[2]) if len(node.inputs) > 2 else None
    if zero is None or zero.dtype not in (np.int8, np.uint8):
        return None
    found: np.generic = zero
    return found


def _unsign(graph: ir.Graph, node: ir.Node) -> bool:
    pair = _match(node)
    if pair is None:
        return False
    noted = metadata.BITS in node.metadata_props
    if pair.bits < 8 and pair.low + pair.shift == 0 and not noted:
        for end in (node, *pair.ends):
            end.metadata_props[metadata.BITS] = str(pair.bits)
    elif not pair.shift:
        return False
    if not pair.shift:
        return True
    values = [node.outputs[0]]
    if pair.clip is not None:
        values.append(pair.clip.outputs[0])
        for index, bound in ((1, pair.low), (2, pair.high)):
            code = bound + pair.shift
            pair.clip.replace_input_with(index, constant(graph, f"code{code}", np.uint8(code)))
    for end in (node, *pair.ends):
        zero = _zero_point(end)
        assert zero is not None  # _match has looked
        name = f"{end.inputs[2].name}.u8" if end.inputs[2] is not None else "zero.u8"
        end.replace_input_with(2, constant(graph, name, np.uint8(int(zero) + pair.shift)))
    for value in values:
        value.type = ir.TensorType(ir.DataType.UINT8)
    node.attributes.pop("output_dtype", None)
    return True
