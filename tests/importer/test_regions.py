from __future__ import annotations

import numpy as np
import pytest
import torch
from importing import assert_imports

from mpqtool.importer.regions import max_roi_pool, roi_align

REGIONS = np.array(
    [[0, 0, 3, 4], [1, 1.5, 6, 7], [-2, -3, 9, 12], [2, 2, 2.2, 2.3], [10, 10, 20, 20], [5, 4, 3, 2]],
    np.float32,
)


@pytest.mark.parametrize("mode", ["avg", "max"])
@pytest.mark.parametrize("sampling", [0, 1, 2])
@pytest.mark.parametrize(
    ("opset", "coordinates"), [(10, None), (16, "half_pixel"), (16, "output_half_pixel")]
)
@pytest.mark.filterwarnings("ignore")
def test_roi_align(opset: int, coordinates: str | None, sampling: int, mode: str) -> None:
    shift = f', coordinate_transformation_mode = "{coordinates}"' if coordinates else ""
    size = "output_height = 3, output_width = 2, spatial_scale = 0.8"
    assert_imports(
        f'y = RoiAlign <mode = "{mode}", sampling_ratio = {sampling}, {size}{shift}> (x, rois, images)',
        opset=opset,
        inputs={"x": (3, 9, 8)},
        initializers={"rois": REGIONS, "images": np.zeros(6, np.int64)},
        rtol=1e-4,
        atol=1e-5,  # a mean of up to 25 points, each of four products
    )


def test_roi_align_takes_each_region_from_its_image(rng: np.random.Generator) -> None:
    x = torch.from_numpy(rng.normal(size=(3, 2, 5, 5)))
    pixel = torch.tensor([[2.0, 1.0, 3.0, 2.0]], dtype=x.dtype).expand(
        2, 4
    )  # column 2, row 1, as half pixels
    y = roi_align(x, pixel, torch.tensor([2, 0]), (1, 1), "avg", 1, 1.0, True)
    torch.testing.assert_close(y[:, :, 0, 0], x[[2, 0], :, 1, 2], rtol=1e-12, atol=0)
    assert roi_align(x, pixel[:0], torch.tensor([]), (4, 3), "avg", 1, 1.0, True).shape == (0, 2, 4, 3)


def test_gradients_of_roi_align(rng: np.random.Generator) -> None:
    x = torch.from_numpy(rng.normal(size=(1, 2, 5, 4))).requires_grad_()
    rois = torch.tensor([[0.4, 0.7, 3.3, 3.6], [1.1, 0.6, 2.9, 4.2]], dtype=x.dtype).requires_grad_()
    images = torch.tensor([0, 0])
    assert torch.autograd.gradcheck(
        lambda x, r: roi_align(x, r, images, (2, 2), "avg", 2, 1.0, True), (x, rois)
    )


@pytest.mark.parametrize("scale", [1.0, 0.6])
def test_max_roi_pool(scale: float) -> None:  # ONNX Runtime has no version 22
    rois = np.concatenate([np.zeros((6, 1), np.float32), REGIONS], 1)
    assert_imports(
        f"y = MaxRoiPool <pooled_shape = [3, 2], spatial_scale = {scale}> (x, rois)",
        opset=7,
        inputs={"x": (3, 9, 8)},
        initializers={"rois": rois},
        rtol=0,
        atol=0,
    )


def test_max_roi_pool_is_zero_outside_of_the_image() -> None:
    x = -torch.ones(2, 1, 2, 2)
    x[1] = -2
    y = max_roi_pool(x, torch.tensor([[1.0, 0, 0, 3, 1], [0.0, 5, 5, 6, 6]]), (1, 2), 1.0)
    assert y.tolist() == [[[[-2.0, 0.0]]], [[[0.0, 0.0]]]]
    assert max_roi_pool(x, torch.zeros(0, 5), (1, 2), 1.0).shape == (0, 1, 1, 2)
