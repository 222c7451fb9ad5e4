from __future__ import annotations

import numpy as np
import pytest
import torch
from importing import assert_imports
from torch.nn import functional as F

from mpqtool.importer.deform import deform_conv


@pytest.mark.parametrize("mask", [False, True])
@pytest.mark.parametrize(("group", "offset_group"), [(1, 1), (2, 1), (1, 2), (2, 2)])
@pytest.mark.parametrize("opset", [19, 22])
def test_deform_conv(opset: int, group: int, offset_group: int, mask: bool, rng: np.random.Generator) -> None:
    result = ((9 + 1 + 1 - 3) // 2 + 1, 8 - 2 + 1)
    inputs = {"x": (4, 9, 8), "offset": (offset_group * 12, *result)}
    if mask:
        inputs["mask"] = (offset_group * 6, *result)
    module = assert_imports(
        f"y = DeformConv <group = {group}, offset_group = {offset_group}, strides = [2, 1],"
        f" pads = [1, 0, 1, 0]> (x, w, offset, b{', mask' if mask else ''})",
        opset=opset,
        inputs=inputs,
        initializers={
            "w": rng.normal(size=(6, 4 // group, 3, 2)).astype(np.float32),
            "b": rng.normal(size=6).astype(np.float32),
        },
        rtol=1e-4,
        atol=1e-4,  # 24 terms of size 4, each of four products
    )
    assert list(dict(module.named_parameters())) == ["w", "b"]


@pytest.mark.parametrize("rank", [1, 2, 3])
def test_without_offsets_it_is_a_convolution(rank: int, rng: np.random.Generator) -> None:
    x = torch.from_numpy(rng.normal(size=(2, 4, *[5, 6, 7][:rank])))
    weight = torch.from_numpy(rng.normal(size=(6, 2, *[3] * rank)))
    convolution = (F.conv1d, F.conv2d, F.conv3d)[rank - 1]
    expected = convolution(x, weight, stride=2, padding=1, dilation=1, groups=2)
    offset = torch.zeros(2, 3**rank * rank, *expected.shape[2:], dtype=x.dtype)
    y = deform_conv(x, weight, offset, None, None, (2,) * rank, (1,) * (2 * rank), None, 2, 1)
    torch.testing.assert_close(y, expected, rtol=0, atol=1e-12)


def test_gradients(rng: np.random.Generator) -> None:
    sizes = ((1, 2, 4, 4), (2, 2, 2, 2), (1, 8, 3, 3), (2,), (1, 4, 3, 3))
    inputs = [torch.from_numpy(rng.uniform(-0.4, 0.4, size=size)).requires_grad_() for size in sizes]
    assert torch.autograd.gradcheck(lambda *xs: deform_conv(*xs, None, None, None, 1, 1), inputs)
