from __future__ import annotations

import pytest
import torch
from importing import assert_imports

from mpqtool.importer.global_pooling import global_lp_pool

SPATIAL = {1: (9,), 2: (9, 8), 3: (5, 6, 7)}


@pytest.mark.parametrize("op", ["GlobalAveragePool", "GlobalMaxPool"])
@pytest.mark.parametrize("opset", [7, 22])
@pytest.mark.parametrize("rank", [1, 2, 3])
def test_global_pool(op: str, opset: int, rank: int) -> None:
    # The order of summation is the runtime's choice.
    assert_imports(f"y = {op} (x)", opset=opset, inputs={"x": (4, *SPATIAL[rank])}, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("p", [1, 2, 3])
@pytest.mark.parametrize("rank", [1, 2, 3])
def test_global_lp_pool(p: int, rank: int) -> None:  # ONNX Runtime has no version 22
    body = f"y = GlobalLpPool <p = {p}> (x)"
    assert_imports(body, opset=7, inputs={"x": (4, *SPATIAL[rank])}, rtol=1e-5, atol=1e-6)


def test_the_gradient_of_a_norm_of_zeros_is_zero() -> None:
    x = torch.zeros(1, 2, 3, 3, requires_grad=True)
    global_lp_pool(x, 2).sum().backward()
    torch.testing.assert_close(x.grad, torch.zeros_like(x), rtol=0, atol=0)
