from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir
import pytest
import torch
from compare import assert_equivalent, run_onnx
from numpy.typing import NDArray
from onnx_ir.passes import common
from onnx_text import parse

from mpqtool.importer import import_graph
from mpqtool.importer.dtypes import tensor_from_array
from mpqtool.passes.errors import UnsupportedOpError

Arrays = dict[str, NDArray[Any]]

X = np.random.default_rng(1).normal(0, 4, (2, 6, 5)).astype(np.float32)
PER_TENSOR: Arrays = {"s": np.float32(0.05)}  # type: ignore[dict-item]
PER_AXIS: Arrays = {"s": np.linspace(0.02, 0.1, 6).astype(np.float32)}


def assert_same(model: ir.Model, *arrays: NDArray[Any]) -> None:
    """What the imported graph gives is what ONNX Runtime gives, with all its numbers and its type."""
    feeds = {str(v.name): array for v, array in zip(model.graph.inputs, arrays, strict=True)}
    expected = run_onnx(model, feeds)
    with torch.no_grad():
        made = import_graph(model).eval()(*map(tensor_from_array, arrays))
    found = {name: y.numpy() for name, y in zip(expected, made, strict=True)}
    assert_equivalent(expected, found, rtol=0, atol=0)


@pytest.mark.parametrize("opset", [10, 13, 19, 21, 23])
@pytest.mark.parametrize("dtype", ["uint8", "int8"])
def test_codes_for_the_whole_tensor(opset: int, dtype: str) -> None:
    model = parse(
        f"g (float[N,6,5] x) => ({dtype}[N,6,5] q, float[N,6,5] y)"
        "{ q = QuantizeLinear(x, s, z) y = DequantizeLinear(q, s, z) }",
        {**PER_TENSOR, "z": np.array(3, dtype)},
        opset=opset,
    )
    assert_same(model, X)


@pytest.mark.parametrize("opset", [10, 13, 21])
def test_codes_are_uint8_without_a_zero_point(opset: int) -> None:
    model = parse(
        "g (float[N,6,5] x) => (uint8[N,6,5] q, float[N,6,5] y)"
        "{ q = QuantizeLinear(x, s) y = DequantizeLinear(q, s) }",
        PER_TENSOR,
        opset=opset,
    )
    assert_same(model, X)


@pytest.mark.parametrize("opset", [13, 19, 21, 23])
@pytest.mark.parametrize("axis", [1, -2])
@pytest.mark.parametrize("dtype", ["uint8", "int8"])
def test_codes_along_an_axis(opset: int, axis: int, dtype: str) -> None:
    model = parse(
        f"g (float[N,6,5] x) => ({dtype}[N,6,5] q, float[N,6,5] y)"
        f"{{ q = QuantizeLinear <axis = {axis}> (x, s, z) y = DequantizeLinear <axis = {axis}> (q, s, z) }}",
        {**PER_AXIS, "z": np.arange(6).astype(dtype)},
        opset=opset,
    )
    assert_same(model, X)


@pytest.mark.parametrize("dtype", ["uint16", "int16"])
@pytest.mark.parametrize("domain", ["", "com.microsoft."])
def test_codes_of_16_bits(dtype: str, domain: str) -> None:
    model = parse(
        f"g (float[N,6,5] x) => ({dtype}[N,6,5] q, float[N,6,5] y)"
        f"{{ q = {domain}QuantizeLinear(x, s, z) y = {domain}DequantizeLinear(q, s, z) }}",
        {"s": np.array(3e-4, np.float32), "z": np.array(1000, dtype)},
    )
    assert_same(model, X)


@pytest.mark.parametrize(("dtype", "zero"), [("uint4", 5), ("int4", -2)])
def test_codes_of_4_bits(dtype: str, zero: int) -> None:
    model = parse(
        "g (float[N,6,5] x) => (float[N,6,5] y)"
        f"<float s = {{0.8}}, {dtype} z = {{{zero}}}>"
        "{ q = QuantizeLinear(x, s, z) y = DequantizeLinear(q, s, z) }",
    )
    assert_same(model, X)


def test_codes_of_blocks() -> None:
    scale = np.random.default_rng(2).uniform(0.02, 0.1, (2, 3, 5)).astype(np.float32)
    model = parse(
        "g (float[2,6,5] x) => (int8[2,6,5] q, float[2,6,5] y)"
        "{ q = QuantizeLinear <axis = 1, block_size = 2> (x, s, z)"
        "  y = DequantizeLinear <axis = 1, block_size = 2> (q, s, z) }",
        {"s": scale, "z": np.arange(30).reshape(2, 3, 5).astype(np.int8)},
    )
    assert_same(model, X)


def test_codes_of_float8() -> None:
    model = parse(
        "g (float[N,6,5] x) => (float[N,6,5] y)"
        "{ q = QuantizeLinear <output_dtype = 17> (x, s) y = DequantizeLinear(q, s) }",
        PER_TENSOR,
    )
    assert_same(model, X)


@pytest.mark.parametrize("dtype", ["uint8", "int8", "uint16", "int16"])
def test_integers_from_outside_are_dequantized(dtype: str) -> None:
    info = np.iinfo(dtype)
    codes = np.random.default_rng(3).integers(info.min, info.max, (2, 6, 5)).astype(dtype)
    model = parse(
        f"g ({dtype}[N,6,5] q) => (float[N,6,5] y) {{ y = DequantizeLinear(q, s, z) }}",
        {**PER_TENSOR, "z": np.array(info.max, dtype)},
    )
    assert_same(model, codes)


@pytest.mark.parametrize("weights", [PER_TENSOR, PER_AXIS], ids=["tensor", "axis"])
def test_accumulators_are_dequantized(weights: Arrays) -> None:
    codes = np.random.default_rng(3).integers(-(2**31), 2**31 - 1, (2, 6, 5)).astype(np.int32)
    model = parse("g (int32[N,6,5] q) => (float[N,6,5] y) { y = DequantizeLinear(q, s) }", weights)
    assert_same(model, codes)


def test_half_precision() -> None:
    model = parse(
        "g (float16[N,6,5] x) => (float16[N,6,5] y)"
        "{ q = QuantizeLinear(x, s, z) y = DequantizeLinear(q, s, z) }",
        {"s": np.array(0.125, np.float16), "z": np.array(7, np.uint8)},
    )
    assert_same(model, X.astype(np.float16))


def test_dynamic_codes() -> None:
    model = parse(
        "g (float[N,6,5] x) => (uint8[N,6,5] q, float s, uint8 z) { q, s, z = DynamicQuantizeLinear(x) }"
    )
    assert_same(model, X)


def test_dynamic_codes_are_dequantized() -> None:
    model = parse(
        "g (float[N,6,5] x) => (float[N,6,5] y)"
        "{ q, s, z = DynamicQuantizeLinear(x) y = DequantizeLinear(q, s, z) }"
    )
    assert_same(model, X)


def test_operators_on_codes_carry_the_gradient() -> None:
    model = parse(
        "g (float[N,4,8,8] x) => (float[N,64] y, uint8[N,64] codes)"
        "<uint8 low = {0}, uint8 high = {15}>"
        "{ wide = QuantizeLinear(x, s, z) q = Clip(wide, low, high)"
        "  m = MaxPool <kernel_shape = [2, 2], strides = [2, 2]> (q) codes = Flatten(m)"
        "  y = DequantizeLinear(codes, s, z) }",
        {"s": np.array(0.25, np.float32), "z": np.array(3, np.uint8)},
    )
    x = np.random.default_rng(4).normal(0, 2, (2, 4, 8, 8)).astype(np.float32)
    assert_same(model, x)

    leaf = torch.from_numpy(x).requires_grad_()
    y, codes = import_graph(model)(leaf)
    y.sum().backward()

    assert codes.dtype == torch.uint8
    inside = ((codes > 0) & (codes < 15)).sum()
    clipped = ((codes == 0) | (codes == 15)).sum()
    assert leaf.grad is not None
    assert 0 < inside <= leaf.grad.sum() <= inside + clipped
    # of one window at most one pixel has a gradient, and none that is clipped away
    assert leaf.grad.unique().tolist() == [0, 1]
    assert leaf.grad[(leaf > 0.25 * 12.6)].sum() == 0


def test_a_float_weight_behind_a_pair_is_learned() -> None:
    rng = np.random.default_rng(5)
    model = parse(
        "g (float[N,4] x) => (float[N,3] y)"
        "{ q = QuantizeLinear <axis = 1> (w, s, z) r = DequantizeLinear <axis = 1> (q, s, z)"
        "  y = MatMul(x, r) }",
        {
            "w": rng.normal(size=(4, 3)).astype(np.float32),
            "s": np.float32([0.02, 0.03, 0.04]),
            "z": np.zeros(3, np.int8),
        },
    )
    module = import_graph(model)
    assert list(dict(module.named_parameters())) == ["w"]
    module(torch.ones(2, 4))[0].sum().backward()
    gradient = module.get_parameter("w").grad
    assert gradient is not None
    assert gradient.tolist() == [[2] * 3] * 4


@pytest.mark.parametrize("scale", [0.0173, 0.1])
def test_float16_is_divided_in_float32(scale: float) -> None:
    model = parse(
        "g (float16[N] x) => (int8[N] q) { q = QuantizeLinear(x, s, z) }",
        {"s": np.array(scale, np.float16), "z": np.array(0, np.int8)},
    )
    assert_same(model, np.arange(-130 * scale, 130 * scale, scale / 64, dtype=np.float16))


@pytest.mark.parametrize(("number", "name"), [(23, "FLOAT4E2M1"), (7, "INT64")])
def test_other_codes_are_refused(number: int, name: str) -> None:
    model = parse(
        "g (float[N,6,5] x) => (float[N,6,5] y)"
        f"{{ q = QuantizeLinear <output_dtype = {number}> (x, s) y = DequantizeLinear(q, s) }}",
        PER_TENSOR,
        opset=23,
    )
    with pytest.raises(UnsupportedOpError, match=f"the type of its codes is {name}, allowed are .*UINT8"):
        import_graph(model)


def test_codes_of_a_type_that_nothing_tells_are_refused() -> None:
    model = parse(
        "g (float[N,6,5] x, float[1] t) => (float[N,6,5] y)"
        "{ z = Cast <to = 2> (t) q = QuantizeLinear(x, s, z) y = DequantizeLinear(q, s, z) }",
        PER_TENSOR,
    )
    with pytest.raises(UnsupportedOpError, match="the type of its codes is not known, allowed are"):
        import_graph(model)


@pytest.mark.parametrize(
    "middle",
    [
        "w = Add (q, q)",
        "w = Mul (q, q)",
        "w = Div (q, three)",
        "w = BitwiseAnd (q, three)",
        "w = CastLike (three, q)",
        'w = Resize <mode = "nearest"> (q, , two)',
        "w = Clip (q, three)",
        "w = Transpose (q)",
        "w = Max (q, three)",
    ],
)
def test_codes_are_integers_to_every_operator(middle: str) -> None:
    body = f"q = QuantizeLinear (x, s, z)  {middle}  y = DequantizeLinear (w, s, z)"
    codes = {"z": np.array(90, np.uint8), "three": np.array(3, np.uint8)}
    numbers: Arrays = {**PER_TENSOR, **codes, "two": np.array([1, 2, 2], np.float32)}
    model = parse(f"net (float[n,6,5] x) => (float[a,b,c] y) {{ {body} }}", numbers)
    assert_same(common.ShapeInferencePass()(model).model, X)
