from __future__ import annotations

import numpy as np
import onnx
import pytest
import torch
from compare import run_onnx
from importing import assert_imports, imported, parse

from mpqtool.importer.backend import Backend

CLOSE = {"rtol": 1e-5, "atol": 1e-5}  # sums of eight terms of size 2


def _array(rng: np.random.Generator, *shape: int) -> np.ndarray:
    return rng.normal(size=shape).astype(np.float32)


@pytest.mark.parametrize("opset", [7, 9, 11, 13])
def test_gemm_in_normal_form_is_linear(opset: int, rng: np.random.Generator) -> None:
    module = assert_imports(
        "y = Gemm <transB = 1> (x, w, b)",
        opset=opset,
        inputs={"x": (8,)},
        initializers={"w": _array(rng, 5, 8), "b": _array(rng, 5)},
        **CLOSE,
    )
    assert list(dict(module.named_parameters())) == ["w", "b"]
    assert torch.nn.functional.linear in [node.target for node in module.graph.nodes]


@pytest.mark.parametrize(
    ("attributes", "weight", "bias"),
    [
        ("transB = 1", (5, 8), None),
        ("transB = 0", (8, 5), (1, 5)),
        ("alpha = 0.5, beta = 2.0, transB = 1", (5, 8), (5,)),
        ("beta = 2.0, transB = 1", (5, 8), None),
    ],
)
def test_gemm_in_other_forms(
    attributes: str, weight: tuple[int, ...], bias: tuple[int, ...] | None, rng: np.random.Generator
) -> None:
    assert_imports(
        f"y = Gemm <{attributes}> (x, w{', b' if bias else ''})",
        opset=21,
        inputs={"x": (8,)},
        initializers={"w": _array(rng, *weight), **({"b": _array(rng, *bias)} if bias else {})},
        **CLOSE,
    )


def test_gemm_with_the_first_matrix_transposed(rng: np.random.Generator) -> None:
    assert_imports(
        "t = Transpose (x)  y = Gemm <transA = 1> (t, w)",
        opset=21,
        inputs={"x": (8,)},
        initializers={"w": _array(rng, 8, 5)},
        **CLOSE,
    )


@pytest.mark.parametrize("opset", [1, 9, 13])
@pytest.mark.parametrize("shape", [(8,), (3, 8), (2, 3, 8)])
def test_matmul(opset: int, shape: tuple[int, ...], rng: np.random.Generator) -> None:
    module = assert_imports(
        "y = MatMul (x, w)", opset=opset, inputs={"x": shape}, initializers={"w": _array(rng, 8, 5)}, **CLOSE
    )
    assert list(dict(module.named_parameters())) == ["w"]


def test_matmul_of_two_values() -> None:
    assert_imports("y = MatMul (x, b)", opset=21, inputs={"x": (3, 8), "b": (8, 5)}, **CLOSE)


@pytest.mark.parametrize("bias", [(1, 5), (3, 1), (3, 5), ()])
def test_the_bias_of_a_gemm_is_broadcast(bias: tuple[int, ...], rng: np.random.Generator) -> None:
    proto = parse(
        "y = Gemm <transB = 1> (x, w, b)",
        inputs={"x": (8,)},
        initializers={"w": _array(rng, 5, 8), "b": np.asarray(_array(rng, *bias))},
    )
    x = _array(rng, 3, 8)
    (expected,) = run_onnx(proto, {"x": x}).values()
    (made,) = imported(proto)(torch.from_numpy(x))
    np.testing.assert_allclose(made.detach().numpy(), expected, **CLOSE)


@pytest.mark.parametrize("dtype", ["int32", "int64", "uint32", "uint64"])
@pytest.mark.parametrize("node", ["Gemm (x, w, w)", "MatMul (x, w)"])
def test_products_of_integers(node: str, dtype: str) -> None:
    proto = onnx.parser.parse_model(
        f'<ir_version: 10, opset_import: ["": 21]> net ({dtype}[2, 2] x, {dtype}[2, 2] w) '
        f"=> ({dtype}[2, 2] y) {{ y = {node} }}"
    )
    x, w = (np.array(numbers).astype(dtype) for numbers in ([[1, 2], [3, 4]], [[5, 0], [1, 2**31 - 1]]))
    (made,) = Backend.prepare(proto).run([x, w])
    np.testing.assert_array_equal(made, x @ w + (w if "Gemm" in node else 0))


@pytest.mark.parametrize(
    ("equation", "shapes"),
    [
        ("bij, bjk -> bik", [(2, 3), (3, 4)]),
        ("bij,bkj", [(2, 3), (4, 3)]),
        ("...ij,...jk->...ik", [(2, 3), (3, 4)]),
        ("...ij->...ji", [(2, 3)]),
        ("bZa,bZA->bAa", [(3, 2), (3, 4)]),
        ("bii->bi", [(3, 3)]),
        ("b...->...b", [(3, 2)]),
        ("bi,bj,bk->bijk", [(2,), (3,), (4,)]),
    ],
)
def test_einsum(equation: str, shapes: list[tuple[int, ...]]) -> None:
    names = ["x", "u", "v"][: len(shapes)]
    assert_imports(
        f'y = Einsum <equation = "{equation}"> ({", ".join(names)})',
        opset=12,
        inputs=dict(zip(names, shapes, strict=True)),
        **CLOSE,
    )


def test_the_letters_of_an_implicit_result_are_sorted_by_case() -> None:
    """The standard puts all capitals first; ONNX Runtime 1.31 refuses the equation."""
    proto = parse('y = Einsum <equation = "baB">(x)', opset=28, inputs={"x": (2, 3)})
    x = torch.rand(4, 2, 3)
    assert torch.equal(imported(proto)(x)[0], x.permute(2, 1, 0))


def test_einsum_learns_its_weights(rng: np.random.Generator) -> None:
    module = assert_imports(
        'y = Einsum <equation = "bti,iho->btho"> (x, w)',
        opset=12,
        inputs={"x": (3, 4)},
        initializers={"w": _array(rng, 4, 2, 5)},
        **CLOSE,
    )
    (weight,) = module.parameters()
    module(torch.rand(2, 3, 4))[0].square().sum().backward()
    assert weight.grad is not None
    assert weight.grad.abs().min() > 0
