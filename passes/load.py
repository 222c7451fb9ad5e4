"""Read and write ONNX files."""

from __future__ import annotations

__all__ = ["NEWEST_OPSET", "OLDEST_OPSET", "load_model", "save_model", "stored_bytes"]

import os
import pathlib
import re
from collections.abc import Iterator

import google.protobuf.message  # type: ignore[import-untyped]
import numpy as np
import onnx
import onnx_ir as ir
from onnx_ir.passes.common import ShapeInferencePass

from .clear_metadata import ClearForeignMetadataPass
from .errors import ModelError
from .files import write_whole

OLDEST_OPSET = 7
NEWEST_OPSET = 26

_LARGEST_FILE = 2**31 - 1
_FIRST_IR_WITH_FREE_INITIALIZERS = 4
_UNKNOWN = "unknown"
_FLOATS = (ir.DataType.FLOAT, ir.DataType.FLOAT16, ir.DataType.DOUBLE, ir.DataType.BFLOAT16)


def load_model(path: str | os.PathLike[str]) -> ir.Model:
    """Read an ONNX file, with what it keeps in files beside it, and check that it can be used.

    A graph output without a type or shape gets the one that can be inferred, if any; some exporters
    leave it out, and all engines run such a file. So they do where a file of IR version 3 does not repeat
    its initializers among the inputs, or of which nodes stand before those that they take values from. An
    operator that ONNX does not know is left for the importer to name.

    Raises:
        ModelError: There is no such file, it is not an ONNX file, it is truncated or breaks the rules of
            ONNX, its opset or IR version is out of range, external data is missing, or a weight is not
            a finite number (an infinite scalar is let through: it is a bound).
    """
    source = pathlib.Path(path)
    model = _parse(source, _read(source))
    ir.external_data.set_base_dir(model.graph, source.resolve().parent)
    for name, tensor in _tensors(model):
        if isinstance(tensor, ir.ExternalTensor):
            _check_external(source, name, tensor)
        _check_finite(source, name, tensor)
    ir.external_data.load_to_model(model)
    bare = [value for value in model.graph.outputs if value.shape is None or value.type is None]
    if bare:
        ShapeInferencePass(check_type=False, strict_mode=False, data_prop=True)(model)
    lenient = bool(bare) or model.ir_version < _FIRST_IR_WITH_FREE_INITIALIZERS or any(_unknown(model))
    try:
        try:
            onnx.checker.check_model(_for_checker(model) if lenient else str(source))
        except onnx.checker.ValidationError as error:
            if "topologically sorted" not in str(error) or not _sort(model):
                raise
            onnx.checker.check_model(_for_checker(model))
    except onnx.checker.ValidationError as error:
        raise ModelError(f"Cannot use {str(source)!r}: {_reason(error)} Export the model again.") from None
    return model


def save_model(model: ir.Model, path: str | os.PathLike[str]) -> None:
    """Write a model into one file, whole or not at all; the same model gives the same bytes.

    Doc strings and metadata of other tools are not written, as they hold paths of the machine that
    exported the model.

    Raises:
        ModelError: The file cannot be written, or would be larger than the 2 GiB that fit.
    """
    clean = ClearForeignMetadataPass()(model.clone()).model
    proto = ir.to_proto(clean)
    size = proto.ByteSize()
    if size > _LARGEST_FILE:
        raise ModelError(
            f"Cannot write {str(path)!r}: it would have {size} bytes, {_LARGEST_FILE} are allowed. "
            "Use a smaller model."
        )
    try:
        write_whole(path, proto.SerializeToString(deterministic=True))
    except OSError as error:
        raise ModelError(f"Cannot write {str(path)!r}: {error.strerror}.") from None


def _sort(model: ir.Model) -> bool:
    """Put each node behind those whose values it takes; False where they take each other's."""
    try:
        for graph in model.graphs():
            graph.sort()
    except ValueError:
        return False
    return True


def _for_checker(model: ir.Model) -> onnx.ModelProto:
    """The model without what the checker minds and no engine does.

    It wants a shape at each output: one of no dimensions where none is known. It knows no operator that
    ONNX has not: these get a domain of their own.
    """
    copy = model.clone()
    for node in _unknown(copy):
        node.domain = _UNKNOWN
        copy.graph.opset_imports[_UNKNOWN] = 1
    proto = ir.to_proto(copy)
    proto.ir_version = max(proto.ir_version, _FIRST_IR_WITH_FREE_INITIALIZERS)
    for value in proto.graph.output:
        if not value.type.WhichOneof("value") or value.type.HasField("tensor_type"):
            value.type.tensor_type.shape.SetInParent()
    return proto


def _unknown(model: ir.Model) -> Iterator[ir.Node]:
    """Nodes of the standard domain with an operator that no version of ONNX has."""
    functions = {(domain, name) for domain, name, _ in model.functions}
    for node in ir.traversal.RecursiveGraphIterator(model.graph):
        known = node.domain != "" or ("", node.op_type) in functions or onnx.defs.has(node.op_type)
        if not known:
            yield node


def _reason(error: Exception) -> str:
    """What the checker says, as one sentence, with the node where it names one."""
    reason, _, context = str(error).partition("\n\n")
    node = re.search(r"Name: (.+?) OpType: ", context)
    name = node[1].strip() if node else ""
    where = f", in node {name!r}" if name and f"({name})" not in reason else ""
    return f"{' '.join(reason.split()).rstrip('.')}{where}."


def _read(source: pathlib.Path) -> bytes:
    if source.is_dir():
        raise ModelError(f"Cannot read {str(source)!r}: it is a folder. Give an ONNX file.")
    try:
        data = source.read_bytes()
    except FileNotFoundError:
        raise ModelError(f"Cannot read {str(source)!r}: no such file.") from None
    except OSError as error:
        raise ModelError(f"Cannot read {str(source)!r}: {error.strerror}.") from None
    if not data:
        raise ModelError(f"Cannot read {str(source)!r}: the file is empty. Give an ONNX file.")
    return data


def _parse(source: pathlib.Path, data: bytes) -> ir.Model:
    # Every ONNX file begins with the field ir_version, a small number.
    if data[:1] != b"\x08" or len(data) < 2 or not 1 <= data[1] < 128:
        raise ModelError(
            f"Cannot read {str(source)!r}: it is not an ONNX file. Give one; "
            "`mpqtool export` writes it from a torch module."
        )
    proto = onnx.ModelProto()
    try:
        proto.ParseFromString(data)
    except google.protobuf.message.DecodeError:
        proto.Clear()
    if proto.ir_version > onnx.IR_VERSION:
        raise ModelError(
            f"Cannot read {str(source)!r}: its IR version is {proto.ir_version}, the newest that onnx "
            f"{onnx.__version__} reads is {onnx.IR_VERSION}. Export it again with opset 21."
        )
    if not proto.HasField("graph") or not proto.opset_import:
        raise ModelError(
            f"Cannot read {str(source)!r}: it is truncated or damaged, {len(data)} bytes are there. "
            "Copy or export it again."
        )
    opset = next((entry.version for entry in proto.opset_import if entry.domain in ("", "ai.onnx")), None)
    if opset is None:
        domains = ", ".join(sorted(entry.domain for entry in proto.opset_import))
        raise ModelError(
            f"Cannot read {str(source)!r}: it holds no operators of ai.onnx, only of {domains}. "
            "Give a neural network."
        )
    if not OLDEST_OPSET <= opset <= NEWEST_OPSET:
        raise ModelError(
            f"Cannot read {str(source)!r}: its opset is {opset}, {OLDEST_OPSET} to {NEWEST_OPSET} are "
            "supported. Export it again with opset 21."
        )
    try:
        return ir.from_proto(proto)
    except (ValueError, TypeError, KeyError, ir.serde.SerdeError) as error:
        reason = str(error).strip().splitlines()[0]
        raise ModelError(f"Cannot read {str(source)!r}: {reason}. Export it again.") from None


def _tensors(model: ir.Model) -> Iterator[tuple[str, ir.TensorProtocol]]:
    """All weights with their names: initializers, and the tensors of Constant nodes."""
    for graph in model.graphs():
        for name, value in graph.initializers.items():
            if value.const_value is not None:
                yield name, value.const_value
    for node in ir.traversal.RecursiveGraphIterator(model.graph):
        if node.op_type == "Constant" and "value" in node.attributes:
            yield str(node.outputs[0].name), node.attributes["value"].as_tensor()


def _check_external(source: pathlib.Path, name: str, tensor: ir.ExternalTensor) -> None:
    folder = source.resolve().parent
    place = pathlib.Path(tensor.path).resolve()
    if not place.is_relative_to(folder):
        raise ModelError(
            f"Cannot read {str(source)!r}: tensor {name!r} lies in {str(tensor.location)!r}, outside the "
            "folder of the model. Export the model again, its data beside it."
        )
    needed = (tensor.offset or 0) + tensor.nbytes
    found = place.stat().st_size if place.is_file() else None
    if found is None or found < needed:
        state = "there is no such file" if found is None else f"it has {found} bytes, {needed} are needed"
        raise ModelError(
            f"Cannot read {str(source)!r}: its tensor {name!r} lies in {str(tensor.location)!r}, but "
            f"{state}. Put the whole file beside the model."
        )


def _check_finite(source: pathlib.Path, name: str, tensor: ir.TensorProtocol) -> None:
    if tensor.dtype not in _FLOATS:
        return
    try:
        numbers = tensor.numpy()
    except ValueError as error:
        raise ModelError(f"Cannot read tensor {name!r} of {str(source)!r}: {error}.") from None
    finite = np.isfinite(numbers)
    if finite.all() or (numbers.size == 1 and not np.isnan(numbers).any()):
        return
    raise ModelError(
        f"Cannot use {str(source)!r}: tensor {name!r} holds {int((~finite).sum())} numbers that are NaN or "
        "infinite; weights must be finite. Train or export the model again."
    )


def stored_bytes(path: str | os.PathLike[str]) -> int:
    """Bytes of a model on disk, the files that hold its external data included."""
    path = pathlib.Path(path)
    proto = onnx.load(path, load_external_data=False)
    places = {
        entry.value for t in proto.graph.initializer for entry in t.external_data if entry.key == "location"
    }
    return sum(file.stat().st_size for file in (path, *(path.parent / place for place in places)))
