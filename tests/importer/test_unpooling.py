from __future__ import annotations

import numpy as np
import pytest
import torch
from importing import assert_imports
from torch.nn import functional as F

from mpqtool.importer.unpooling import col2im, max_unpool


@pytest.mark.parametrize("opset", [9, 11])  # ONNX Runtime has no version 22
def test_max_unpool(opset: int) -> None:
    assert_imports(
        "p, i = MaxPool <kernel_shape = [2, 3], strides = [2, 3]> (x)"
        "  y = MaxUnpool <kernel_shape = [2, 3], strides = [2, 3]> (p, i)",
        opset=opset,
        inputs={"x": (3, 8, 9)},
        rtol=0,
        atol=0,
    )


def test_max_unpool_to_a_shape_undoes_the_pool() -> None:
    assert_imports(
        "p, i = MaxPool <kernel_shape = [2, 2], strides = [2, 2]> (x)  s = Shape (x)"
        "  y = MaxUnpool <kernel_shape = [2, 2], strides = [2, 2]> (p, i, s)",
        opset=11,
        inputs={"x": (3, 9, 7)},
        rtol=0,
        atol=0,
    )


def test_gradients_of_max_unpool(rng: np.random.Generator) -> None:
    x = torch.from_numpy(rng.normal(size=(1, 2, 2, 2))).requires_grad_()
    indices = torch.tensor([0, 3, 9, 15, 16, 20, 25, 31]).view(1, 2, 2, 2)
    assert torch.autograd.gradcheck(lambda x: max_unpool(x, indices, None, (2, 2), (2, 2), (0,) * 4), x)


@pytest.mark.parametrize(
    ("image", "block", "attributes", "blocks"),
    [
        ((7, 6), (3, 2), "", 25),
        ((7, 6), (3, 2), "dilations = [2, 1], strides = [1, 2], pads = [1, 0, 2, 1]", 18),
        ((7,), (3,), "strides = [2]", 3),
        ((4, 5, 3), (2, 2, 1), "", 36),
    ],
)
def test_col2im(image: tuple[int, ...], block: tuple[int, ...], attributes: str, blocks: int) -> None:
    assert_imports(
        f"y = Col2Im {f'<{attributes}>' if attributes else ''} (x, image, block)",
        opset=18,
        inputs={"x": (2 * int(np.prod(block)), blocks)},
        initializers={"image": np.array(image), "block": np.array(block)},
        rtol=1e-6,
        atol=1e-6,  # six terms, in any order
    )


def test_col2im_is_torchs_fold(rng: np.random.Generator) -> None:
    x = torch.from_numpy(rng.normal(size=(2, 12, 12))).requires_grad_()
    y = col2im(x, torch.tensor([5, 4]), (2, 2), (1, 1), (0, 0, 0, 0), (1, 1))
    torch.testing.assert_close(y, F.fold(x, (5, 4), (2, 2)), rtol=1e-12, atol=0)
    assert torch.autograd.gradcheck(lambda x: col2im(x, (5, 4), (2, 2), (2, 1), (1, 0, 1, 1), None), x)
