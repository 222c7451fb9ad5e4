from __future__ import annotations

import numpy as np
import onnx
import onnx.reference
import onnx_ir as ir
import pytest
import torch
from compare import run_onnx
from importing import imported, parse

from mpqtool.importer.backend import Backend

ARG_VERSIONS = [(op, opset) for op in ("ArgMax", "ArgMin") for opset in (7, 11, 12, 13)]


def _ties(batch: int) -> np.ndarray:
    """Few different numbers, so that most are there more than once."""
    return np.random.default_rng(batch).integers(-2, 3, (batch, 5, 6)).astype(np.float32)


def _assert_same(proto: onnx.ModelProto) -> None:
    module = imported(proto)
    for batch in (1, 3):
        x = _ties(batch)
        expected = run_onnx(proto, {"x": x})
        for made, wanted in zip(module(torch.from_numpy(x)), expected.values(), strict=True):
            assert made.numpy().dtype == wanted.dtype
            np.testing.assert_array_equal(made.numpy(), wanted)


@pytest.mark.parametrize(("op", "opset"), ARG_VERSIONS)
@pytest.mark.parametrize("attributes", ["axis = 1", "axis = -1, keepdims = 0", "keepdims = 1"])
def test_arg(op: str, opset: int, attributes: str) -> None:
    proto = parse(f"y = {op} <{attributes}> (x)", opset=opset, inputs={"x": (5, 6)})
    proto.graph.output[0].type.tensor_type.elem_type = onnx.TensorProto.INT64
    _assert_same(proto)


@pytest.mark.parametrize(("op", "opset"), [case for case in ARG_VERSIONS if case[1] >= 12])
@pytest.mark.parametrize("attributes", ["axis = 1", "axis = -1, keepdims = 0"])
def test_arg_of_the_last(op: str, opset: int, attributes: str) -> None:
    proto = parse(f"y = {op} <{attributes}, select_last_index = 1> (x)", opset=opset, inputs={"x": (5, 6)})
    proto.graph.output[0].type.tensor_type.elem_type = onnx.TensorProto.INT64
    _assert_same(proto)


def _top_k(node: str, *, opset: int, k: int | None = 3) -> onnx.ModelProto:
    proto = parse(
        f"y, indices = TopK {node}",
        opset=opset,
        inputs={"x": (5, 6)},
        initializers={} if k is None else {"k": np.array([k], np.int64)},
        outputs=("y", "indices"),
    )
    proto.graph.output[1].type.tensor_type.elem_type = onnx.TensorProto.INT64
    return proto


@pytest.mark.parametrize("axis", [1, -1])
def test_top_k_with_k_in_an_attribute(axis: int) -> None:
    _assert_same(_top_k(f"<axis = {axis}, k = 3> (x)", opset=7, k=None))


@pytest.mark.parametrize("opset", [10, 11, 24])
@pytest.mark.parametrize("axis", [1, -1])
def test_top_k(opset: int, axis: int) -> None:
    _assert_same(_top_k(f"<axis = {axis}> (x, k)", opset=opset))


@pytest.mark.parametrize("opset", [11, 24])
@pytest.mark.parametrize("largest", [0, 1])
@pytest.mark.parametrize("k", [0, 1, 6])
def test_the_smallest_and_other_k(opset: int, largest: int, k: int) -> None:
    _assert_same(_top_k(f"<largest = {largest}> (x, k)", opset=opset, k=k))


@pytest.mark.parametrize("largest", [0, 1])
@pytest.mark.parametrize("axis", [0, 1, -1])
@pytest.mark.parametrize(
    "dtype", ["float16", "float32", "float64", "int8", "uint8", "int16", "int32", "int64"]
)
def test_of_many_equals_the_lower_index_is_first(dtype: str, axis: int, largest: int) -> None:
    """Infinities, both zeros and the ends of the type among them."""
    kind, array_type = np.dtype(dtype).kind, np.dtype(dtype)
    info = np.finfo(array_type) if kind == "f" else np.iinfo(array_type)
    numbers = [info.min, info.max, 0, 1, 2, *((-0.0, np.inf, -np.inf, info.tiny) if kind == "f" else ())]
    x = np.random.default_rng(0).choice(np.array(numbers, array_type), (40, 50, 60))
    element = onnx.helper.np_dtype_to_tensor_dtype(array_type)
    proto = onnx.helper.make_model(
        onnx.helper.make_graph(
            [onnx.helper.make_node("TopK", ["x", "k"], ["y", "i"], axis=axis, largest=largest)],
            "net",
            [onnx.helper.make_tensor_value_info("x", element, x.shape)],
            [
                onnx.helper.make_tensor_value_info("y", element, None),
                onnx.helper.make_tensor_value_info("i", onnx.TensorProto.INT64, None),
            ],
            [onnx.numpy_helper.from_array(np.array([13], np.int64), "k")],
        ),
        opset_imports=[onnx.helper.make_opsetid("", 24)],
        ir_version=10,
    )
    expected = run_onnx(proto, {"x": x})
    y, index = imported(proto)(torch.from_numpy(x))
    np.testing.assert_array_equal(index.numpy(), expected["i"])
    np.testing.assert_array_equal(y.numpy(), expected["y"])


def test_k_can_be_computed() -> None:
    """As many as there are rows: an exported ``min(k, n)``."""
    proto = _top_k("(x, k)", opset=21, k=None)
    rows = onnx.helper.make_node("Shape", ["x"], ["k"], start=1, end=2)
    proto.graph.node.insert(0, rows)
    _assert_same(proto)


@pytest.mark.parametrize("dtype", ["uint8", "int32", "uint32", "uint64", "float16"])
@pytest.mark.parametrize("node", ["TopK (x, k)", "ArgMax <axis = -1, keepdims = 0> (x)"])
def test_other_types(node: str, dtype: str) -> None:
    kind = onnx.TensorProto.DataType.Name(ir.DataType.from_numpy(np.dtype(dtype))).lower()
    top = node.startswith("TopK")
    outs = f"{kind}[N, 2] y, int64[N, 2] i" if top else "int64[N] y"
    proto = onnx.parser.parse_model(
        f'<ir_version: 10, opset_import: ["": 21]> net ({kind}[N, 4] x) => ({outs}) '
        f"{{ k = Constant <value = int64[1] {{2}}> ()  y{', i' if top else ''} = {node} }}"
    )
    x = np.array([[1, 9, 3, 9], [7, 2, 7, 0]]).astype(dtype)
    if dtype == "uint64":
        x[:, 1] += np.uint64(2**63)  # what int64 does not hold
    expected = onnx.reference.ReferenceEvaluator(proto).run(None, {"x": x})
    for made, wanted in zip(Backend.prepare(proto).run([x]), expected, strict=True):
        np.testing.assert_array_equal(made, wanted)


def test_top_k_has_a_gradient() -> None:
    x = torch.rand(2, 5, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    module = imported(_top_k("(x, k)", opset=21))
    assert torch.autograd.gradcheck(lambda x: module(x)[0], x.requires_grad_())
