from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir
import pytest
import torch
from compare import assert_equivalent, run_onnx
from numpy.typing import NDArray
from onnx_text import parse

from mpqtool.importer import import_graph
from mpqtool.importer.integer import matmul_integer, qlinear_matmul
from mpqtool.passes.errors import UnsupportedOpError

CONV = "kernel_shape = [3, 3], pads = [0, 1, 2, 1], strides = [2, 1], dilations = [1, 2]"


def codes(rng: np.random.Generator, dtype: str, *shape: int) -> NDArray[Any]:
    info = np.iinfo(dtype)
    return rng.integers(info.min, info.max, shape, endpoint=True).astype(dtype)


def weights(rng: np.random.Generator, dtype: str, *shape: int) -> NDArray[Any]:
    """Codes so small that no pair of products saturates on CPUs without VNNI (see ``MAX_SAFE_PAIR``)."""
    return rng.integers(0 if dtype == "uint8" else -64, 64, shape).astype(dtype)


def assert_same(model: ir.Model, *arrays: NDArray[Any]) -> None:
    """The same integers as ONNX Runtime's."""
    feeds = {str(v.name): array for v, array in zip(model.graph.inputs, arrays, strict=True)}
    made = import_graph(model)(*map(torch.from_numpy, arrays))
    names = [str(value.name) for value in model.graph.outputs]
    found = {name: y.numpy() for name, y in zip(names, made, strict=True)}
    assert_equivalent(run_onnx(model, feeds), found, rtol=0, atol=0)


@pytest.mark.parametrize("weight", ["uint8", "int8"])
@pytest.mark.parametrize("attributes", [CONV, "group = 2", 'auto_pad = "SAME_UPPER"'])
def test_conv_integer(weight: str, attributes: str, rng: np.random.Generator) -> None:
    channels = 2 if "group" in attributes else 4
    model = parse(
        f"g (uint8[N,4,9,8] x) => (int32[N,6,M,K] y) {{ y = ConvInteger <{attributes}> (x, w, xz, wz) }}",
        {
            "w": weights(rng, weight, 6, channels, 3, 3),
            "xz": np.array(7, np.uint8),
            "wz": np.array(9, weight),
        },
    )
    assert_same(model, codes(rng, "uint8", 2, 4, 9, 8))


def test_conv_integer_without_zero_points(rng: np.random.Generator) -> None:
    weight = weights(rng, "int8", 6, 4, 3)
    model = parse("g (uint8[N,4,9] x) => (int32[N,6,7] y) { y = ConvInteger(x, w) }", {"w": weight})
    x = torch.from_numpy(codes(rng, "uint8", 2, 4, 9))
    expected = torch.conv1d(x.float(), torch.from_numpy(weight).float())
    torch.testing.assert_close(import_graph(model)(x)[0], expected.int(), rtol=0, atol=0)


@pytest.mark.parametrize(("a", "b"), [("uint8", "int8"), ("uint8", "uint8"), ("int8", "int8")])
@pytest.mark.parametrize("b_zero", [[3], [1, 2, 3, 4, 5]], ids=["tensor", "column"])
def test_matmul_integer(a: str, b: str, b_zero: list[int], rng: np.random.Generator) -> None:
    model = parse(
        f"g ({a}[N,7,6] a) => (int32[N,7,5] y) {{ y = MatMulInteger(a, b, az, bz) }}",
        {"b": weights(rng, b, 6, 5), "az": np.array(100, a), "bz": np.array(b_zero, b)},
    )
    assert_same(model, codes(rng, a, 2, 7, 6))


def test_rows_may_have_a_zero_point_each() -> None:
    a = torch.tensor([[1, 2], [3, 4]], dtype=torch.uint8)
    b = torch.tensor([[1, 10], [100, 50]], dtype=torch.uint8)
    made = matmul_integer(a, b, torch.tensor([1, 3], dtype=torch.uint8), None)
    assert made.tolist() == [[100, 50], [100, 50]]
    assert made.dtype == torch.int32


def test_sums_wrap_around_at_32_bits() -> None:
    a = torch.full((1, 33026), 255, dtype=torch.uint8)
    assert matmul_integer(a, a.T, None, None).item() == 33026 * 255 * 255 - 2**32


@pytest.mark.parametrize("dtype", ["uint8", "int8"])
@pytest.mark.parametrize("per_channel", [True, False])
@pytest.mark.parametrize("attributes", [CONV, "group = 2", 'auto_pad = "SAME_LOWER"'])
def test_qlinear_conv(dtype: str, per_channel: bool, attributes: str, rng: np.random.Generator) -> None:
    channels = 2 if "group" in attributes else 4
    shape = (6,) if per_channel else ()
    model = parse(
        f"g ({dtype}[N,4,9,8] x) => ({dtype}[N,6,M,K] y)"
        f"{{ y = QLinearConv <{attributes}> (x, xs, xz, w, ws, wz, ys, yz, b) }}",
        {
            "w": weights(rng, "int8", 6, channels, 3, 3),
            "xs": np.array(0.031, np.float32),
            "xz": np.array(7, dtype),
            "ws": rng.uniform(0.001, 0.01, shape).astype(np.float32),
            "wz": np.zeros(shape, np.int8),
            "ys": np.array(0.17, np.float32),
            "yz": np.array(40, dtype),
            "b": rng.integers(-30000, 30000, 6).astype(np.int32),
        },
    )
    assert_same(model, codes(rng, dtype, 2, 4, 9, 8))


@pytest.mark.parametrize("opset", [10, 21])
@pytest.mark.parametrize("dtype", ["uint8", "int8"])
@pytest.mark.parametrize("columns", [(), (5,)], ids=["tensor", "column"])
def test_qlinear_matmul(opset: int, dtype: str, columns: tuple[int, ...], rng: np.random.Generator) -> None:
    model = parse(
        f"g ({dtype}[N,7,6] a) => ({dtype}[N,7,5] y){{ y = QLinearMatMul(a, as, az, b, bs, bz, ys, yz) }}",
        {
            "b": weights(rng, "int8", 6, 5),
            "as": np.array(0.031, np.float32),
            "az": np.array(7, dtype),
            "bs": rng.uniform(0.001, 0.01, columns).astype(np.float32),
            "bz": np.zeros(columns, np.int8),
            "ys": np.array(0.17, np.float32),
            "yz": np.array(40, dtype),
        },
        opset=opset,
    )
    assert_same(model, codes(rng, dtype, 2, 7, 6))


def test_rows_may_have_a_scale_each() -> None:
    one, zero = torch.tensor(1.0), torch.tensor(0, dtype=torch.uint8)
    a = torch.tensor([[1, 2], [3, 4]], dtype=torch.uint8)
    b = torch.eye(2, dtype=torch.uint8)
    made = qlinear_matmul(a, torch.tensor([10.0, 1]), zero, b, one, zero, one, zero, (0.0, 255.0))
    assert made.tolist() == [[10, 20], [3, 4]]


def test_integer_operators_take_carried_codes_and_pass_the_gradient(rng: np.random.Generator) -> None:
    model = parse(
        "g (float[N,3,6,6] x) => (float[N,4,2,2] y)"
        "{ q = QuantizeLinear(x, s, z) c = QLinearConv(q, s, z, w, s, wz, s, z)"
        "  m = MaxPool <kernel_shape = [2, 2], strides = [2, 2]> (c) y = DequantizeLinear(m, s, z) }",
        {
            "s": np.array(0.05, np.float32),
            "z": np.array(120, np.uint8),
            "w": rng.integers(-9, 9, (4, 3, 3, 3)).astype(np.int8),
            "wz": np.array(0, np.int8),
        },
    )
    x = rng.normal(size=(2, 3, 6, 6)).astype(np.float32)
    assert_same(model, x)
    leaf = torch.from_numpy(x).requires_grad_()
    import_graph(model)(leaf)[0].sum().backward()
    assert leaf.grad is not None
    assert leaf.grad.abs().sum() > 0


def test_dynamic_codes_are_multiplied(rng: np.random.Generator) -> None:
    model = parse(
        "g (float[N,6] x) => (int32[N,5] y){ q, s, z = DynamicQuantizeLinear(x) y = MatMulInteger(q, w, z) }",
        {"w": weights(rng, "int8", 6, 5)},
    )
    assert_same(model, rng.normal(size=(4, 6)).astype(np.float32))


def test_codes_of_a_type_that_nothing_tells_are_refused(rng: np.random.Generator) -> None:
    model = parse(
        "g (uint8[2,2] a, float t) => (float[2,2] y)"
        "{ z = Cast <to = 2> (t) q = QLinearMatMul(a, s, z, a, s, z, s, z) y = Cast <to = 1> (q) }",
        {"s": np.array(0.5, np.float32)},
    )
    with pytest.raises(UnsupportedOpError, match="its codes is not known, allowed are INT8 and UINT8"):
        import_graph(model)
