from __future__ import annotations

import numpy as np
import onnx
import onnx.reference
import pytest
import torch
from importing import assert_imports, imported, parse

from mpqtool.importer.backend import Backend

FORMS = ["exclusive = 0", "exclusive = 1", "reverse = 1", "exclusive = 1, reverse = 1"]


@pytest.mark.parametrize("opset", [11, 14])
@pytest.mark.parametrize("axis", [0, 2, -2])
@pytest.mark.parametrize("attributes", FORMS)
def test_sum(opset: int, axis: int, attributes: str) -> None:
    assert_imports(
        f"y = CumSum <{attributes}> (x, axis)",
        opset=opset,
        initializers={"axis": np.array(axis, np.int64)},
        rtol=1e-5,
        atol=1e-6,
    )


def test_the_axis_can_be_computed() -> None:
    assert_imports(
        "rank = Size (shape)  axis = Sub (rank, one)  y = CumSum (x, axis)",
        opset=14,
        inputs={"x": (4, 6)},
        initializers={"shape": np.zeros(3, np.float32), "one": np.array(1, np.int64)},
        rtol=1e-5,
        atol=1e-6,
    )


@pytest.mark.parametrize("dtype", ["float", "double", "int32", "int64", "uint32", "uint64"])
@pytest.mark.parametrize("op", ["CumSum", "CumProd"])
@pytest.mark.parametrize("attributes", FORMS)
@pytest.mark.parametrize("size", [0, 1, 4])
def test_types_and_sizes(op: str, dtype: str, attributes: str, size: int) -> None:
    """As the standard's reference; no ONNX Runtime has CumProd yet."""
    model = onnx.parser.parse_model(
        f'<ir_version: 10, opset_import: ["": 26]> net ({dtype}[2, N] x) => ({dtype}[2, N] y) '
        f"{{ axis = Constant <value = int64 {{1}}> ()  y = {op} <{attributes}> (x, axis) }}"
    )
    numpy_dtype = onnx.helper.tensor_dtype_to_np_dtype(model.graph.input[0].type.tensor_type.elem_type)
    x = np.array([[1, 2, 3, 4], [5, 0, 2, 7]], numpy_dtype)[:, :size]
    (expected,) = onnx.reference.ReferenceEvaluator(model).run(None, {"x": x})
    (made,) = Backend.prepare(model).run([x])
    assert made.dtype == expected.dtype
    np.testing.assert_array_equal(made, expected)


@pytest.mark.parametrize("op", ["CumSum", "CumProd"])
@pytest.mark.parametrize("attributes", FORMS)
def test_gradients(op: str, attributes: str) -> None:
    proto = parse(
        f"y = {op} <{attributes}> (x, axis)",
        opset=26,
        inputs={"x": (4,)},
        initializers={"axis": np.array(1, np.int64)},
    )
    x = torch.rand(2, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    assert torch.autograd.gradcheck(imported(proto), x.requires_grad_())
