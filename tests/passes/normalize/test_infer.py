from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest
from compare import run_onnx
from graphs import calibrated, normal
from onnx_text import parse

from mpqtool.passes.normalize import InferShapesPass
from mpqtool.passes.pipelines import lower, quantize
from mpqtool.runtime.session import LEVELS

POOL = "kernel_shape = [2, 2], strides = [3, 3], pads = [1, 1, 1, 1], ceil_mode = 1"


@pytest.mark.parametrize("op", ["MaxPool", "AveragePool"])
def test_no_window_begins_in_the_padding_at_the_end(op: str) -> None:
    body = f"p = {op} <{POOL}> (x) q = {op} <kernel_shape = [2, 2], strides = [2, 2], ceil_mode = 1> (p)"
    model = parse(f"net (float[1, 1, 8, 5] x) => (float[A, B, C, D] y) {{ {body} y = Tanh (q) }}")
    before = [dict(node.attributes) for node in model.graph]
    shapes = run_onnx(model, {"x": np.zeros((1, 1, 8, 5), np.float32)}, expose=["p", "q"])

    for _ in range(2):  # what is there already is no hindrance
        InferShapesPass()(model)

    for node in list(model.graph)[:2]:
        value = node.outputs[0]
        assert value.shape == ir.Shape(shapes[str(value.name)].shape)
    assert [dict(node.attributes) for node in model.graph] == before


@pytest.mark.parametrize("op", ["MaxPool", "AveragePool"])
@pytest.mark.parametrize(
    "tail",
    [
        pytest.param("t = Tanh (p)", id="table"),
        pytest.param("t = AveragePool <kernel_shape = [2, 2], pads = [1, 1, 1, 1]> (p)", id="average"),
        pytest.param("t = Softmax <axis = 3> (p)", id="softmax"),
    ],
)
def test_what_is_behind_such_a_pool_runs(op: str, tail: str, rng: np.random.Generator) -> None:
    text = f"""
    net (float[N, 2, 5, 5] x) => (float[N, 4, A, B] y) {{
        a = Conv <pads = [1, 1, 1, 1]> (x, w) p = {op} <{POOL}> (a) {tail} y = Conv (t, v)
    }}
    """
    model = normal(text, {"w": rng.normal(size=(4, 2, 3, 3)), "v": rng.normal(size=(4, 4, 1, 1))})
    feeds = {"x": rng.normal(size=(3, 2, 5, 5)).astype(np.float32)}
    qdq = quantize(model, calibrated(model, feeds))
    step = float(qdq.graph.initializers["y.scale"].const_value.numpy())  # type: ignore[union-attr]
    expected, lowered = run_onnx(qdq, feeds)["y"], lower(qdq)

    for level in LEVELS:
        found = run_onnx(lowered, feeds, level=level)["y"]
        # An average is one code off at most where it lies between two; a Conv of four of them, a few.
        np.testing.assert_allclose(found, expected, rtol=0, atol=4 * step)
