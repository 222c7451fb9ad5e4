"""PP-OCR, as people have it: MobileNetV3 and transformer parts in paddle2onnx's spelling, sizes free."""

from __future__ import annotations

import dataclasses
import pathlib

import numpy as np
import onnx_ir as ir
import pytest
import torch
from compare import assert_equivalent, run_onnx
from learning import assert_learns, assert_written_back, run_torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor, fx

from mpqtool.importer import import_graph
from mpqtool.passes.load import load_model
from mpqtool.passes.pipelines import normalize

pytestmark = pytest.mark.network

# Float32 in another order of summation, through some sixty layers, as a part of the largest output.
RELATIVE = 1e-4


# Two sizes for each: all are free in the first file, the width in the second, the batch in the third.
SHAPES = {
    "ch_PP-OCRv4_det_infer.onnx": ((1, 3, 64, 96), (2, 3, 96, 64)),
    "ch_PP-OCRv4_rec_infer.onnx": ((1, 3, 48, 96), (2, 3, 48, 160)),
    "ch_ppocr_mobile_v2.0_cls_infer.onnx": ((1, 3, 48, 192), (2, 3, 48, 192)),
}


@dataclasses.dataclass(frozen=True)
class Real:
    """A file, its normal form and what the importer makes of that."""

    path: pathlib.Path
    model: ir.Model
    module: fx.GraphModule

    def batch(self, index: int) -> Tensor:
        return pictures(SHAPES[self.path.name][index])


def pictures(shape: tuple[int, ...]) -> Tensor:
    """A word in black on white, and from black to white, as -1 to 1.

    On noise the detector gives nothing that could differ; on words alone one of its gates, a HardSigmoid,
    is at its ends for every channel and lets no gradient through.
    """
    count, _, height, width = shape
    image = Image.new("L", (width, height), 255)
    font = ImageFont.load_default(height // 3)
    ImageDraw.Draw(image).text((width // 16, height // 4), "Hello", fill=0, font=font)
    word = torch.from_numpy(np.asarray(image, dtype=np.float32) / 127.5 - 1)
    fade = torch.linspace(-1, 1, width).expand(height, width)
    return torch.stack([word, fade][:count])[:, None].expand(shape).contiguous()


@pytest.fixture(params=SHAPES, ids=["detection", "recognition", "direction"])
def real(request: pytest.FixtureRequest, ocr_models: dict[str, pathlib.Path]) -> Real:
    path = ocr_models[request.param]
    model = normalize(load_model(path))
    return Real(path, model, import_graph(model))


@pytest.mark.parametrize("index", [0, 1])
def test_outputs_are_those_of_the_untouched_file(real: Real, index: int) -> None:
    x = real.batch(index)
    (value,) = real.model.graph.inputs
    expected = run_onnx(load_model(real.path), {str(value.name): x.numpy()})
    atol = RELATIVE * max(float(np.abs(values).max()) for values in expected.values())
    assert_equivalent(expected, run_torch(real.module, real.model, x), rtol=0, atol=atol)


def test_one_step_reaches_every_weight_lowers_the_loss_and_goes_back(real: Real) -> None:
    x = real.batch(1)
    with torch.no_grad():
        (y,) = real.module(x)
    target = y.roll(1, dims=-1)  # the next class, or the next pixel

    def loss() -> Tensor:
        return (real.module(x)[0] - target).square().sum()

    assert_learns(real.module, loss, lr=1e-5)
    assert_written_back(real.module, real.model, x, relative=RELATIVE)
