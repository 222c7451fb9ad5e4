from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest
from compare import run_onnx
from onnx_text import parse

from mpqtool.passes.normalize.ceil_mode import whole_windows

X = {"x": np.random.default_rng(0).normal(size=(1, 1, 7, 5)).astype(np.float32)}


def _pool(attributes: str) -> ir.Model:
    return parse(f"net (float[1, 1, 7, 5] x) => (float[A, B, C, D] y) {{ y = MaxPool <{attributes}> (x) }}")


@pytest.mark.parametrize("pads", [[0, 0, 0, 0], [1, 1, 1, 1], [0, 1, 1, 0]])
@pytest.mark.parametrize("stride", [1, 2, 3])
@pytest.mark.parametrize("window", ["2, 2", "3, 2"])
def test_the_same_pool_without_ceil_mode(pads: list[int], stride: int, window: str) -> None:
    rest = f"kernel_shape = [{window}], strides = [{stride}, {stride}]"
    rounded = _pool(f"{rest}, pads = {pads}, ceil_mode = 1")

    found = whole_windows(rounded.graph[0])

    assert found is not None
    y = run_onnx(rounded, X)["y"]
    assert list(y.shape[2:]) == found.sizes
    np.testing.assert_array_equal(run_onnx(_pool(f"{rest}, pads = {found.pads}"), X)["y"], y)


@pytest.mark.parametrize(
    "attributes",
    [
        pytest.param("kernel_shape = [2, 2]", id="floor"),
        pytest.param('kernel_shape = [2, 2], ceil_mode = 1, auto_pad = "SAME_UPPER"', id="same"),
    ],
)
def test_others_have_none(attributes: str) -> None:
    assert whole_windows(_pool(attributes).graph[0]) is None
