"""Models from ONNX text, as they are: not normalized."""

from __future__ import annotations

__all__ = ["ops", "parse"]

from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
from numpy.typing import ArrayLike


def parse(text: str, weights: dict[str, ArrayLike] | None = None, *, opset: int = 21) -> ir.Model:
    """A model from the text of its graph; weights become float32, but arrays of other types stay."""
    imports = f'"" : {opset}, "com.microsoft" : 1'
    proto: Any = onnx.parser.parse_model(f"<ir_version: 10, opset_import: [{imports}]>\n{text}")
    for name, numbers in (weights or {}).items():
        typed = (
            numbers
            if isinstance(numbers, np.ndarray) and numbers.dtype != np.float64
            else np.float32(numbers)
        )
        proto.graph.initializer.append(onnx.numpy_helper.from_array(np.asarray(typed), name))
    onnx.checker.check_model(proto)
    return ir.from_proto(proto)


def ops(model: ir.Model) -> list[str]:
    """The operators in graph order."""
    return [node.op_type for node in model.graph]
