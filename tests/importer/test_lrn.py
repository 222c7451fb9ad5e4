from __future__ import annotations

import numpy as np
import pytest
import torch
from importing import assert_imports

from mpqtool.importer.lrn import local_response_norm


@pytest.mark.parametrize("size", [1, 3, 5, 9])
@pytest.mark.parametrize("opset", [7, 13])
def test_lrn(opset: int, size: int) -> None:
    assert_imports(
        f"y = LRN <size = {size}, alpha = 0.3, beta = 0.6, bias = 1.5> (x)",
        opset=opset,
        inputs={"x": (6, 4, 5)},
        rtol=1e-5,
        atol=1e-6,  # the power, in float32
    )


@pytest.mark.parametrize("size", [2, 4])
@pytest.mark.parametrize("shape", [(2, 6), (2, 6, 3), (2, 6, 3, 2, 2)])
def test_even_sizes_and_other_ranks(size: int, shape: tuple[int, ...], rng: np.random.Generator) -> None:
    # ONNX Runtime takes odd sizes and images only: this is the equation of the standard.
    x = rng.normal(size=shape)
    expected = np.empty_like(x)
    for c in range(6):
        region = x[:, max(0, c - (size - 1) // 2) : min(5, c + size // 2) + 1]
        expected[:, c] = x[:, c] / (2 + 0.5 / size * (region**2).sum(1)) ** 0.75
    y = local_response_norm(torch.from_numpy(x), 0.5, 0.75, 2.0, size)
    np.testing.assert_allclose(y.numpy(), expected, rtol=1e-12, atol=0)


def test_gradients(rng: np.random.Generator) -> None:
    x = torch.from_numpy(rng.normal(size=(2, 5, 3))).requires_grad_()
    assert torch.autograd.gradcheck(lambda x: local_response_norm(x, 0.5, 0.75, 2.0, 4), x)
