from __future__ import annotations

import numpy as np
import pytest
import torch
from importing import assert_imports, imported, parse

from mpqtool.importer.indexing import gather_elements, gather_nd

EXACT = {"rtol": 0, "atol": 0}


@pytest.mark.parametrize("opset", [7, 11, 13])
@pytest.mark.parametrize("axis", [0, 1, -1])
@pytest.mark.parametrize("indices", [0, [0], [[0, -1, 0], [0, 0, -1]]], ids=str)
def test_gather(opset: int, axis: int, indices: list[int]) -> None:
    given = {"i": np.array(indices, np.int64)}
    assert_imports(f"y = Gather <axis = {axis}> (x, i)", opset=opset, initializers=given, **EXACT)


def test_gather_from_a_table_of_embeddings(rng: np.random.Generator) -> None:
    """Tokens come in as floats here, and are cast to int32."""
    table = {"table": rng.normal(size=(7, 3)).astype(np.float32)}
    module = assert_imports(
        "i = Cast <to = 6> (x)  y = Gather (table, i)",
        opset=13,
        inputs={"x": (4,)},
        initializers=table,
        low=-7,
        high=6.9,
        **EXACT,
    )
    module(torch.tensor([[2.0, -1.0, 2.0]]))[0].sum().backward()
    assert module.get_parameter("table").grad[:, 0].tolist() == [0, 0, 2, 0, 0, 0, 1]


@pytest.mark.parametrize("opset", [11, 13])
@pytest.mark.parametrize("axis", [1, -1])
def test_gather_elements(opset: int, axis: int) -> None:
    given = {"i": np.array([[[1, -1, 0], [0, -2, 2]]], np.int64)}
    assert_imports(
        f"y = GatherElements <axis = {axis}> (x, i)",
        opset=opset,
        inputs={"x": (3, 4)},
        initializers=given,
        **EXACT,
    )


@pytest.mark.parametrize("opset", [11, 12, 13])
@pytest.mark.parametrize(
    "indices", [[0, -1], [[0], [-1]], [[[0, 1, 2], [-1, 3, 5]]], [[0, 1, 2, 3]]], ids=str
)
def test_gather_nd(opset: int, indices: list[int]) -> None:
    given = {"i": np.array(indices, np.int64)}
    assert_imports("y = GatherND (x, i)", opset=opset, initializers=given, **EXACT)


@pytest.mark.parametrize("opset", [12, 13])
@pytest.mark.parametrize(
    ("indices", "batch_dims"), [([[0, 1]], 1), ([[[0], [-1]]], 1), ([[[0], [1], [-1], [3]]], 2)], ids=str
)
def test_gather_nd_in_batches(opset: int, indices: list[int], batch_dims: int) -> None:
    """The batch of the indices is made that of the input."""
    given = {"i": np.array(indices, np.int64), "tail": np.array([1] * (np.ndim(indices) - 1), np.int64)}
    assert_imports(
        "n = Shape (x)  b = Slice (n, zero, one)  s = Concat <axis = 0> (b, tail)  j = Expand (i, s)"
        f"  y = GatherND <batch_dims = {batch_dims}> (x, j)",
        opset=opset,
        initializers={**given, "zero": np.array([0]), "one": np.array([1])},
        **EXACT,
    )


@pytest.mark.parametrize("operator", ["Gather", "GatherElements", "GatherND"])
def test_a_table_learns(operator: str) -> None:
    """The batch of the input is what is multiplied, and gives the gradient."""
    proto = parse(
        f"g = {operator} (w, i)  y = Mul (x, g)",
        inputs={"x": (1,)},
        initializers={"w": np.ones((3, 1), np.float32), "i": np.array([[-1]], np.int64)},
    )
    module = imported(proto)
    module(torch.ones(2, 1))[0].sum().backward()
    assert module.get_parameter("w").grad.flatten().tolist() == [0, 0, 2]


def test_gathering_has_a_gradient() -> None:
    x = torch.randn(2, 3, 4, dtype=torch.float64, requires_grad=True)
    vectors = torch.tensor([[[0, -1], [0, -1]], [[2, 0], [1, 1]]])
    assert torch.autograd.gradcheck(lambda x: gather_nd(x, vectors, 1), x)
    assert torch.autograd.gradcheck(lambda x: gather_elements(x, vectors[:, :, :1], -1), x)


@pytest.mark.parametrize("dtype", [torch.uint16, torch.uint64, torch.float8_e4m3fn, torch.bfloat16])
def test_types_that_torch_has_no_kernel_for(dtype: torch.dtype) -> None:
    x = torch.tensor([[1, 2], [3, 4]]).to(dtype)
    made = gather_elements(x, torch.tensor([[0, -1]]), 1)
    assert made.dtype == dtype
    assert made.float().tolist() == [[1, 2]]
    assert gather_nd(x, torch.tensor([[1, 0]]), 0).float().tolist() == [3]
