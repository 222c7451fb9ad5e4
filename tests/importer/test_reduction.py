from __future__ import annotations

import numpy as np
import onnx
import onnx.reference
import onnx_ir as ir
import pytest
import torch
from importing import assert_imports, imported, parse

from mpqtool.importer.backend import Backend

OPS = [
    "ReduceL1",
    "ReduceL2",
    "ReduceLogSum",
    "ReduceLogSumExp",
    "ReduceMax",
    "ReduceMean",
    "ReduceMin",
    "ReduceProd",
    "ReduceSum",
    "ReduceSumSquare",
]
AXES_IN_ATTRIBUTE = [(op, opset) for op in OPS for opset in (7, 11, 13) if (op, opset) != ("ReduceSum", 13)]
AXES_IN_ATTRIBUTE += [("ReduceMax", 12), ("ReduceMin", 12)]
AXES_IN_INPUT = [(op, 18) for op in OPS] + [("ReduceSum", 13), ("ReduceMax", 20), ("ReduceMin", 20)]
CLOSE = {"rtol": 2e-5, "atol": 2e-5}  # a sum of 360 terms, in the runtime's order
RANGE = {"low": 0.2, "high": 2.0}  # a logarithm needs positive sums


@pytest.mark.parametrize(("op", "opset"), AXES_IN_ATTRIBUTE)
@pytest.mark.parametrize(
    "attributes", ["axes = [1]", "axes = [-1, 1], keepdims = 0", "keepdims = 0", "keepdims = 1"]
)
def test_axes_in_an_attribute(op: str, opset: int, attributes: str) -> None:
    assert_imports(f"y = {op} <{attributes}> (x)", opset=opset, inputs={"x": (2, 3, 5)}, **RANGE, **CLOSE)


@pytest.mark.parametrize(("op", "opset"), AXES_IN_INPUT)
@pytest.mark.parametrize("keepdims", [0, 1])
@pytest.mark.parametrize("axes", [[1], [-1, 1], [2, 3], None])
def test_axes_in_an_input(op: str, opset: int, keepdims: int, axes: list[int] | None) -> None:
    given = {} if axes is None else {"axes": np.array(axes, np.int64)}
    assert_imports(
        f"y = {op} <keepdims = {keepdims}> (x{', axes' if given else ''})",
        opset=opset,
        inputs={"x": (2, 3, 5)},
        initializers=given,
        **RANGE,
        **CLOSE,
    )


def test_negative_numbers() -> None:
    for op in ("ReduceL1", "ReduceL2", "ReduceMax", "ReduceMin", "ReduceSumSquare", "ReduceLogSumExp"):
        assert_imports(f"y = {op} (x)", opset=18, inputs={"x": (2, 3)}, low=-3, high=-1, **CLOSE)


@pytest.mark.parametrize("op", OPS)
def test_axes_can_be_computed(op: str) -> None:
    assert_imports(
        f"rank = Size (shape)  axes = Range (one, rank, one)  y = {op} (x, axes)",
        opset=18,
        inputs={"x": (2, 3)},
        initializers={"shape": np.zeros(3, np.float32), "one": np.array(1, np.int64)},
        **RANGE,
        **CLOSE,
    )


@pytest.mark.parametrize(("op", "opset"), AXES_IN_INPUT)
@pytest.mark.parametrize("axes", [np.array([], np.int64), None])
def test_every_number_can_be_a_set_of_its_own(op: str, opset: int, axes: np.ndarray | None) -> None:
    assert_imports(
        f"y = {op} <noop_with_empty_axes = 1> (x{'' if axes is None else ', axes'})",
        opset=opset,
        inputs={"x": (2, 3)},
        initializers={} if axes is None else {"axes": axes},
        rtol=1e-6,
        atol=1e-7,
        **RANGE,
    )


@pytest.mark.parametrize("op", OPS)
def test_a_single_number(op: str) -> None:
    proto = parse(f"y = {op} <keepdims = 0> (x)", opset=18, inputs={"x": ()})
    proto.graph.input[0].type.tensor_type.ClearField("shape")
    (y,) = imported(proto)(torch.tensor(1.5))
    assert y.shape == ()
    expected = {"ReduceLogSum": np.log(1.5), "ReduceSumSquare": 2.25}.get(op, 1.5)
    assert y.item() == pytest.approx(expected, rel=1e-6)


INTEGER = [(op, dtype) for op in OPS if "Log" not in op for dtype in ("int32", "int64", "uint32", "uint64")]
INTEGER += [(op, dtype) for op in ("ReduceMax", "ReduceMin") for dtype in ("int8", "uint8", "bool")]


@pytest.mark.parametrize(
    ("op", "dtype", "size"),
    [(*case, size) for case in INTEGER for size in (3, 0) if (case[0], size) != ("ReduceMean", 0)],
)
def test_integers_and_empty_sets(op: str, dtype: str, size: int) -> None:
    """As the standard's reference; the mean of nothing is undefined."""
    x = np.array([[1, 0, 7], [2, 5, 1]]).astype(dtype)[:, :size]
    model = _typed(op, dtype)
    (expected,) = onnx.reference.ReferenceEvaluator(model).run(None, {"x": x})
    (made,) = Backend.prepare(model).run([x])
    assert made.dtype == dtype
    np.testing.assert_array_equal(made, expected)


@pytest.mark.parametrize("op", ["ReduceMax", "ReduceMin"])
def test_the_order_of_large_unsigned_integers(op: str) -> None:
    x = np.array([[2**63 + 1, 1, 2**64 - 1], [5, 2**63, 6]], np.uint64)
    (made,) = Backend.prepare(_typed(op, "uint64")).run([x])
    np.testing.assert_array_equal(made, {"ReduceMax": x.max, "ReduceMin": x.min}[op](1, keepdims=True))


def _typed(op: str, dtype: str) -> onnx.ModelProto:
    kind = onnx.TensorProto.DataType.Name(ir.DataType.from_numpy(np.dtype(dtype))).lower()
    return onnx.parser.parse_model(
        f'<ir_version: 10, opset_import: ["": 20]> net ({kind}[N, M] x) => ({kind}[N, 1] y) '
        f"{{ axes = Constant <value = int64[1] {{1}}> ()  y = {op} (x, axes) }}"
    )


@pytest.mark.parametrize("op", OPS)
@pytest.mark.parametrize("keepdims", [0, 1])
def test_gradients(op: str, keepdims: int) -> None:
    axes = {"axes": np.array([0, 2], np.int64)}
    proto = parse(
        f"y = {op} <keepdims = {keepdims}> (x, axes)", opset=18, inputs={"x": (2, 3)}, initializers=axes
    )
    x = torch.rand(2, 2, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) + 0.5
    assert torch.autograd.gradcheck(imported(proto), x.requires_grad_())


def test_the_gradient_of_a_norm_at_zero_is_a_number() -> None:
    x = torch.zeros(2, 3, requires_grad=True)
    (y,) = imported(parse("y = ReduceL2 (x)", opset=18, inputs={"x": (3,)}))(x)
    y.sum().backward()
    assert x.grad is not None
    assert torch.equal(x.grad, torch.zeros(2, 3))
