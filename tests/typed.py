"""Import operators on element types that ``importing`` has not: inputs are arrays, which say their type."""

from __future__ import annotations

__all__ = ["compute", "typed"]

from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
from numpy.typing import DTypeLike, NDArray

from mpqtool.importer.backend import Backend


def typed(
    body: str, *, opset: int, gives: DTypeLike = np.float32, arrays: dict[str, NDArray[Any]]
) -> onnx.ModelProto:
    """A model whose inputs have the types and shapes of the arrays; ``y`` is the output."""
    ins = ", ".join(
        f"{_name(array.dtype)}[{', '.join(map(str, array.shape))}] {name}" for name, array in arrays.items()
    )
    header = f'<ir_version: 10, opset_import: ["": {opset}]>'
    return onnx.parser.parse_model(f"{header} net ({ins}) => ({_name(gives)}[] y) {{ {body} }}")


def compute(body: str, *, opset: int = 21, gives: DTypeLike = np.float32, **arrays: Any) -> NDArray[Any]:
    """What the imported operators make of the arrays.

    Args:
        body: The nodes, as ONNX text.
        opset: Opset of the model.
        gives: Element type of ``y``.
        arrays: The inputs by name.
    """
    proto = typed(body, opset=opset, gives=gives, arrays=arrays)
    (y,) = Backend.prepare(proto).run(list(arrays.values()))
    assert y.dtype == np.dtype(gives)
    return y


def _name(dtype: DTypeLike) -> str:
    return ir.DataType.from_numpy(np.dtype(dtype)).name.lower()
