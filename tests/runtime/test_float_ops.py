from __future__ import annotations

import numpy as np
import pytest
from compare import run_onnx
from onnx_text import parse

from mpqtool.runtime import float_ops


@pytest.mark.parametrize("size", [1, 3, 5, 7, 21])
@pytest.mark.parametrize("channels", [1, 4, 9])
def test_lrn_is_what_onnx_runtime_computes(rng: np.random.Generator, size: int, channels: int) -> None:
    x = rng.normal(size=(2, channels, 3, 2)).astype(np.float32)
    attributes = f"size = {size}, alpha = 0.3, beta = 0.6, bias = 1.5"
    model = parse(f"net (float[N, C, 3, 2] x) => (float[N, C, 3, 2] y) {{ y = LRN <{attributes}> (x) }}")
    (node,) = model.graph

    (found,) = float_ops.run(node, [x], {}, 21, {})

    assert found.dtype == np.float32
    # A few float32 operations in another order.
    np.testing.assert_allclose(found, run_onnx(model, {"x": x})["y"], rtol=2e-6)
