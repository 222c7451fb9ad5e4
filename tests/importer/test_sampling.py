from __future__ import annotations

import numpy as np
import pytest
import torch
from importing import assert_imports
from torch.nn import functional as F

from mpqtool.importer.sampling import grid_sample

# Cubic weights of places up to two sizes away: float32 places are off by 1e-6 of an element of size 2.
CLOSE = {"rtol": 1e-4, "atol": 1e-4}


@pytest.mark.parametrize("align", [0, 1])
@pytest.mark.parametrize("padding", ["zeros", "border", "reflection"])
@pytest.mark.parametrize(
    ("mode", "opset"),
    [
        ("bilinear", 16),
        ("bicubic", 16),
        ("nearest", 16),
        ("linear", 20),
        ("cubic", 20),
        ("nearest", 20),
        ("cubic", 22),
    ],
)
def test_grid_sample(mode: str, opset: int, padding: str, align: int) -> None:
    assert_imports(
        f'y = GridSample <mode = "{mode}", padding_mode = "{padding}", align_corners = {align}> (x, grid)',
        opset=opset,
        inputs={"x": (3, 6, 5), "grid": (4, 7, 2)},
        **CLOSE,
    )


@pytest.mark.parametrize("align", [0, 1])
@pytest.mark.parametrize("padding", ["zeros", "border", "reflection"])
@pytest.mark.parametrize("mode", ["linear", "nearest"])
def test_grid_sample_of_volumes(mode: str, padding: str, align: int) -> None:  # ONNX Runtime has no cubic
    assert_imports(
        f'y = GridSample <mode = "{mode}", padding_mode = "{padding}", align_corners = {align}> (x, grid)',
        opset=20,
        inputs={"x": (3, 4, 6, 5), "grid": (2, 4, 7, 3)},
        **CLOSE,
    )


@pytest.mark.parametrize("align", [False, True])
@pytest.mark.parametrize("padding", ["zeros", "border", "reflection"])
@pytest.mark.parametrize("mode", ["linear", "cubic"])
def test_our_own_form_is_torchs_where_both_are(
    mode: str, padding: str, align: bool, rng: np.random.Generator
) -> None:
    x = torch.from_numpy(rng.normal(size=(2, 3, 6, 5)))
    grid = torch.from_numpy(rng.uniform(-2, 2, size=(2, 4, 7, 2)))
    expected = grid_sample(x, grid, mode, padding, align)
    # A volume of one slice: the third axis is met in its middle.
    flat = torch.cat([grid, torch.zeros(2, 4, 7, 1, dtype=grid.dtype)], -1).unsqueeze(1)
    y = grid_sample(x.unsqueeze(2), flat, mode, padding, align).squeeze(2)
    torch.testing.assert_close(y, expected, rtol=0, atol=1e-12)


def test_reflection_of_the_nearest_rounds_first() -> None:
    x = torch.tensor([[[[0.0, 1.0, 2.0, 3.0]]]])
    # Place -1.5 is halfway: it rounds to -2, which reflects at -0.5 to 1.
    y = grid_sample(x, torch.tensor([[[[-1.5, 0.0]]]]), "nearest", "reflection", False)
    assert y.item() == 1


def test_whole_numbers_are_cut_off() -> None:
    x = torch.tensor([[[[1, 8]]]], dtype=torch.int32)
    y = grid_sample(x, torch.zeros(1, 1, 1, 2), "linear", "zeros", True)
    assert y.dtype == torch.int32
    assert y.item() == 4


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_small_floats(dtype: torch.dtype, rng: np.random.Generator) -> None:
    x = torch.from_numpy(rng.uniform(size=(1, 2, 4, 4))).to(dtype)
    grid = torch.from_numpy(rng.uniform(-1, 1, size=(1, 3, 3, 2))).to(dtype)
    y = grid_sample(x, grid, "linear", "zeros", True)
    assert y.dtype == dtype
    expected = F.grid_sample(x.float(), grid.float(), align_corners=True)
    torch.testing.assert_close(y, expected.to(dtype), rtol=2**-7, atol=0)  # the last of bfloat16's 8 bits


@pytest.mark.parametrize("mode", ["linear", "cubic"])
@pytest.mark.parametrize("shape", [(4, 3), (2, 4, 3)])
def test_gradients(mode: str, shape: tuple[int, ...], rng: np.random.Generator) -> None:
    x = torch.from_numpy(rng.normal(size=(1, 2, *shape))).requires_grad_()
    grid = torch.from_numpy(rng.uniform(-0.9, 0.9, size=(1, *[2] * len(shape), len(shape)))).requires_grad_()
    assert torch.autograd.gradcheck(lambda x, g: grid_sample(x, g, mode, "reflection", False), (x, grid))


@pytest.mark.parametrize("align", [0, 1])
@pytest.mark.parametrize("size", [(1, 4, 5), (1, 3, 4, 5)])
def test_affine_grid(size: tuple[int, ...], align: int) -> None:
    rank = len(size) - 1
    assert_imports(
        "shape = Shape (x)  n = Gather (shape, zero)  s = Concat <axis = 0> (n, size)"
        f"  y = AffineGrid <align_corners = {align}> (x, s)",
        opset=20,
        inputs={"x": (rank, rank + 1)},
        initializers={"size": np.array(size), "zero": np.array([0])},
        rtol=1e-5,
        atol=1e-6,  # four products of size 2
    )
