"""Trust no note of a width that the codes can exceed."""

from __future__ import annotations

__all__ = ["CheckWidthsPass"]

import logging

import onnx_ir as ir

from ... import metadata
from ...values import array, is_op
from ..sums import code_bounds

logger = logging.getLogger(__name__)


class CheckWidthsPass(ir.passes.InPlacePass):
    """Widen the noted width of an activation to that of the Clip which makes its codes.

    Lowering relies on the note, as it leaves out each Clip that changes nothing. A file of ours in which
    another tool changed a Clip says less than its codes hold.

    Left alone: widths of weights, and notes that are true.
    """

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        widened = sum(_widen(node) for node in model.graph if is_op(node, "DequantizeLinear"))
        if widened:
            logger.info("Widened the notes of %d activations", widened)
        return ir.passes.PassResult(model, modified=bool(widened))


def _widen(node: ir.Node) -> bool:
    noted, codes = node.metadata_props.get(metadata.BITS), node.inputs[0]
    if noted is None or array(codes) is not None:
        return False
    bits = code_bounds(codes)[1].bit_length()
    if int(noted) >= bits:
        return False
    node.metadata_props[metadata.BITS] = str(bits)
    return True
