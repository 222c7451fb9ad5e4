"""What an integer file holds, against what it is to hold, before anything is run."""

from __future__ import annotations

__all__ = [
    "BROKEN",
    "compare_attributes",
    "compare_constants",
    "read_integers",
    "require_our_form",
    "require_qdq",
]

import os

import onnx_ir as ir

from mpqtool.passes import cost, metadata
from mpqtool.passes.lower.unpack import ARRANGE, FIELDS, UNPACK

from .errors import RuntimeFault
from .reference import Reference
from .tally import Tally

BROKEN = (ValueError, IndexError, KeyError, TypeError, OverflowError, AttributeError)
"""What numpy and ours raise where a file that ONNX takes holds numbers or sizes that make no sense."""

_INTEGER_LAYERS = ("QLinearConv", "QLinearMatMul", "QGemm", "ConvInteger", "MatMulInteger")
_UNPACKING = (*UNPACK.values(), FIELDS, ARRANGE)


def require_qdq(model: ir.Model, path: str | os.PathLike[str]) -> None:
    """Refuse what is no QDQ file: an integer file proves nothing about itself.

    Raises:
        RuntimeFault: It computes in integers, or quantizes nothing.
    """
    operators = {node.op_type for node in model.graph}
    integer = next((op for op in _INTEGER_LAYERS if op in operators), None)
    if metadata.TARGET in model.metadata_props or (integer and not operators.intersection(cost.OPERATORS)):
        raise RuntimeFault(
            f"Cannot verify against {os.fspath(path)!r}: it is an integer file, not the QDQ file that one is "
            "made of. Name that with --against."
        )
    if not {"QuantizeLinear", "DequantizeLinear"}.issubset(operators):
        raise RuntimeFault(
            f"Cannot verify against {os.fspath(path)!r}: it has no QuantizeLinear and DequantizeLinear. Name "
            "the QDQ file that the integer file was made of with --against."
        )


def require_our_form(model: ir.Model, path: str | os.PathLike[str]) -> None:
    """Refuse weights that another version packed.

    Raises:
        RuntimeFault: They are packed in another form.
    """
    version = model.graph.opset_imports.get(metadata.DOMAIN)
    packed = any(node.domain == metadata.DOMAIN and node.op_type in _UNPACKING for node in model.graph)
    if packed and version != metadata.PACKED:
        raise RuntimeFault(
            f"{os.fspath(path)!r} was made by another version of mpqtool: its weights are packed in form "
            f"{version}, this version reads form {metadata.PACKED}. Lower the QDQ file again."
        )


def read_integers(model: ir.Model, path: str | os.PathLike[str]) -> Reference:
    """The reference on an integer file: what is packed in it is unpacked here.

    Raises:
        RuntimeFault: The weights are packed in another form, or cannot be unpacked.
    """
    require_our_form(model, path)
    try:
        return Reference(model)
    except BROKEN as error:
        raise RuntimeFault(
            f"{os.fspath(path)!r} holds weights that cannot be unpacked: {error}. Lower the QDQ file again."
        ) from error


def compare_constants(expected: Reference, found: Reference, tally: Tally) -> tuple[int, int]:
    """Weights, biases, scales and zero points of a file, against what they are to be.

    Returns:
        How many were compared, and how many of these differ.
    """
    compared = different = 0
    wanted, held = expected.constant_inputs(), found.constant_inputs()
    for key, numbers in wanted.items():
        compared += numbers.size
        other = held.get(key)
        if other is None or other.shape != numbers.shape or other.dtype != numbers.dtype:
            different += numbers.size
        else:
            different += int((other != numbers).sum())
        if different:
            tally.fail(f"input {key[1]} of the operator of {key[0]} (in the file)")
    for key in held.keys() - wanted.keys():
        tally.fail(f"input {key[1]} of the operator of {key[0]} (in the file alone)")
    return compared, different


def compare_attributes(expected: ir.Model, found: ir.Model, tally: Tally) -> None:
    """Attributes of a file, against what they are to be: codes behind a float operator hardly show them.

    Operators are paired by the name of what they give. One that is another operator is left to its results.
    """
    held = {str(node.outputs[0].name): node for node in found.graph}
    for node in expected.graph:
        name = str(node.outputs[0].name)
        other = held.get(name)
        if other is None or other.op_identifier() != node.op_identifier():
            continue
        wanted, own = _attributes(node), _attributes(other)
        for attribute in sorted(wanted.keys() | own.keys()):
            if wanted.get(attribute) != own.get(attribute):
                tally.fail(f"{attribute} of the {node.op_type} of {name} (in the file)")


def _attributes(node: ir.Node) -> dict[str, bytes]:
    """Numbers and texts, as a file holds them."""
    kinds = ir.AttributeType
    plain = (kinds.INT, kinds.INTS, kinds.FLOAT, kinds.FLOATS, kinds.STRING, kinds.STRINGS)
    return {
        name: ir.serde.serialize_attribute(attribute).SerializeToString()
        for name, attribute in node.attributes.items()
        if attribute.type in plain
    }
