from __future__ import annotations

import numpy as np
import pytest
import torch
from importing import assert_imports

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
