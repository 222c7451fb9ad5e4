from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest
from compare import run_onnx
from onnx_text import parse

from mpqtool.passes import metadata
from mpqtool.passes.lower.foreign import CheckWidthsPass
from mpqtool.passes.pipelines import lower

X = {"x": np.random.default_rng(0).normal(size=(3, 2, 4, 4)).astype(np.float32)}


def _model(high: int, noted: str) -> ir.Model:
    """A bound of 0 to ``high``, then a Transpose and a bound of 0 to 15."""
    text = """
    net (float[N, 2, 4, 4] x) => (float[N, 2, 4, 4] y) {
        q = QuantizeLinear (x, s, z) c = Clip (q, low, high) d = DequantizeLinear (c, s, z)
        t = Transpose <perm = [0, 1, 3, 2]> (d)
        p = QuantizeLinear (t, s, z) k = Clip (p, low, top) y = DequantizeLinear (k, s, z)
    }
    """
    numbers = {"s": np.float32(0.1), "z": np.uint8(7)}
    numbers |= {"low": np.uint8(0), "high": np.uint8(high), "top": np.uint8(15)}
    model = parse(text, {k: np.asarray(n) for k, n in numbers.items()})
    model.graph[0].metadata_props[metadata.BITS] = noted
    model.graph[2].metadata_props[metadata.BITS] = noted
    return model


@pytest.mark.parametrize(("high", "noted", "found"), [(31, "4", "5"), (15, "4", "4"), (15, "8", "8")])
def test_a_note_holds_what_the_clip_lets_through(high: int, noted: str, found: str) -> None:
    model = _model(high, noted)

    assert CheckWidthsPass()(model).modified is (noted != found)

    assert model.graph[2].metadata_props[metadata.BITS] == found


def test_a_clip_stays_where_the_note_before_it_is_wrong() -> None:
    expected = run_onnx(_model(31, "4"), X)["y"]

    assert expected.max() == np.float32(0.1) * 8
    np.testing.assert_array_equal(run_onnx(lower(_model(31, "4")), X)["y"], expected)
