"""Float operators for ``reference.py``, by ``onnx.reference`` where that can."""

from __future__ import annotations

__all__ = ["run"]

from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
from numpy.typing import NDArray

from .errors import RuntimeFault


def run(
    node: ir.Node,
    inputs: list[Any],
    captured: Mapping[str, NDArray[Any]],
    opset: int,
    functions: Mapping[ir.OperatorIdentifier, ir.Function],
) -> tuple[NDArray[Any], ...]:
    """Compute one node of the standard domain, or one that calls a function of the model.

    Args:
        node: The operator.
        inputs: What it takes; None where that is left out.
        captured: What the graphs in its attributes use beside that, by name.
        opset: Version of the standard domain.
        functions: Those of the model.

    Raises:
        RuntimeFault: ``onnx.reference`` cannot compute the operator.
    """
    if node.domain == "" and node.op_type == "LRN":
        return (_normalize_responses(node, inputs[0]),)
    from onnx.reference import ReferenceEvaluator

    function = functions.get(node.op_identifier())
    if node.domain != "" and function is None:
        raise RuntimeFault(
            f"The reference has no {node.op_type} (domain {node.domain!r}), node {node.name!r}. "
            "Lower the file again with this version of mpqtool."
        )
    proto = ir.serde.serialize_node(node)
    named = dict(captured) | {
        str(v.name): x for v, x in zip(node.inputs, inputs, strict=True) if v is not None and x is not None
    }
    graph = onnx.helper.make_graph(
        [proto],
        "one",
        [
            onnx.helper.make_tensor_value_info(name, onnx.helper.np_dtype_to_tensor_dtype(x.dtype), x.shape)
            for name, x in named.items()
        ],
        [onnx.helper.make_empty_tensor_value_info(str(value.name)) for value in node.outputs],
    )
    imports = [onnx.helper.make_opsetid("", opset)]
    if function is not None:
        imports.append(onnx.helper.make_opsetid(node.domain, 1))
    model = onnx.helper.make_model(
        graph,
        opset_imports=imports,
        ir_version=10,
        functions=[] if function is None else [ir.serde.serialize_function(function)],
    )
    try:
        with np.errstate(all="ignore"):  # some evaluate both sides of a case, and use the right one
            results = ReferenceEvaluator(model).run(None, named)
    except Exception as error:  # the evaluator raises whatever its operator raises
        raise RuntimeFault(
            f"The reference cannot compute {node.op_type}, node {node.name!r}: {error}."
        ) from error
    return tuple(np.asarray(result) for result in results)


def _normalize_responses(node: ir.Node, x: NDArray[Any]) -> NDArray[Any]:
    """LRN: ``x / (bias + alpha / size * sum(x ** 2)) ** beta``, the sum over ``size`` channels around each.

    That of ``onnx.reference`` fails where the window reaches past the last channel.
    """
    attributes, channels = node.attributes, x.shape[1]
    size = attributes.get_int("size", 1)
    squares = np.square(x)
    total = np.zeros_like(x)
    for shift in range(max(-((size - 1) // 2), 1 - channels), min(size // 2 + 1, channels)):
        low, high = max(0, -shift), channels - max(0, shift)
        total[:, low:high] += squares[:, low + shift : high + shift]
    alpha, beta = attributes.get_float("alpha", 1e-4), attributes.get_float("beta", 0.75)
    base = np.float32(attributes.get_float("bias", 1.0)) + np.float32(alpha / size) * total
    normalized: NDArray[Any] = x / base ** np.float32(beta)
    return normalized
