from __future__ import annotations

import numpy as np
import onnx
import pytest
import torch
from compare import run_onnx
from importing import BATCHES, imported

HEADS, KEYS, SIZE = 4, 5, 8


@pytest.mark.parametrize("interleaved", [0, 1])
@pytest.mark.parametrize("rotated", [0, 4])
@pytest.mark.parametrize("positions", [False, True])
@pytest.mark.parametrize("flat", [False, True])
def test_rotary_embedding(interleaved: int, rotated: int, positions: bool, flat: bool) -> None:
    half = (rotated or SIZE) // 2
    x = f"float[N, {KEYS}, {HEADS * SIZE}]" if flat else f"float[N, {HEADS}, {KEYS}, {SIZE}]"
    table = f"float[9, {half}]" if positions else f"float[N, {KEYS}, {half}]"
    attributes = f"interleaved = {interleaved}, rotary_embedding_dim = {rotated}, num_heads = {HEADS}"
    places = (f", int64[N, {KEYS}] places", ", places") if positions else ("", "")
    model = onnx.parser.parse_model(
        f'<ir_version: 10, opset_import: ["": 23]> net ({x} x, {table} cos, {table} sin{places[0]}) => '
        f"(float[] y) {{ y = RotaryEmbedding <{attributes}> (x, cos, sin{places[1]}) }}"
    )
    module = imported(model)
    for batch in BATCHES:
        rng, feeds = np.random.default_rng(batch), {}
        for value in model.graph.input:
            shape = [dim.dim_value or batch for dim in value.type.tensor_type.shape.dim]
            feeds[value.name] = rng.normal(size=shape).astype(np.float32)
        if positions:
            feeds["places"] = rng.integers(0, 9, feeds["places"].shape)
        (y,) = module(*map(torch.from_numpy, feeds.values()))
        np.testing.assert_allclose(y.numpy(), run_onnx(model, feeds)["y"], rtol=1e-5, atol=1e-6)


def test_the_gradient_of_a_rotation_is_the_rotation_back() -> None:
    model = onnx.parser.parse_model(
        '<ir_version: 10, opset_import: ["": 23]> '
        "net (float[1, 1, 2, 4] x, float[1, 2, 2] c, float[1, 2, 2] s) => (float[] y) "
        "{ y = RotaryEmbedding (x, c, s) }"
    )
    angle = torch.rand(1, 2, 2, generator=torch.Generator().manual_seed(0))
    x = torch.rand(1, 1, 2, 4, generator=torch.Generator().manual_seed(1)).requires_grad_()
    (y,) = imported(model)(x, angle.cos(), angle.sin())
    (y.square().sum() / 2).backward()  # the gradient at y is y
    torch.testing.assert_close(x.grad, x.detach(), rtol=1e-5, atol=1e-6)
