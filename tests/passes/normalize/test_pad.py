from __future__ import annotations

import numpy as np
import pytest
from compare import assert_equivalent, run_onnx
from onnx_text import ops, parse

from mpqtool.passes.normalize import FusePadIntoConvPass

_PADS = [0, 0, 1, 0, 0, 0, 2, 3]


def _net(pad: str = "Pad(x, pads)", conv: str = "Conv<pads=[0,1,1,0]>(p, w)", more: str = "") -> str:
    out = f", float[n,2,e,f] {more[0]}" if more else ""
    body = f"p = {pad} y = {conv} {more if '=' in more else ''}"
    return f"net (float[n,2,4,4] x) => (float[n,3,c,d] y{out}) {{ {body} }}"


_WEIGHTS = {"w": np.arange(24.0).reshape(3, 2, 2, 2), "zero": np.float64(0), "one": np.float64(1)}


@pytest.mark.parametrize("pad", ["Pad(x, pads)", "Pad(x, pads, zero)"], ids=["plain", "zero"])
@pytest.mark.parametrize("conv", ["Conv<pads=[0,1,1,0]>(p, w)", "Conv(p, w)"], ids=["padded", "bare"])
def test_fires(rng: np.random.Generator, pad: str, conv: str) -> None:
    weights = {**_WEIGHTS, "pads": np.array(_PADS)}
    feeds = {"x": rng.normal(size=(2, 2, 4, 4)).astype(np.float32)}
    before = run_onnx(parse(_net(pad, conv), weights), feeds)

    result = FusePadIntoConvPass()(parse(_net(pad, conv), weights))

    assert result.modified
    assert ops(result.model) == ["Conv"]
    assert_equivalent(before, run_onnx(result.model, feeds), rtol=0, atol=0)
    assert not FusePadIntoConvPass()(result.model).modified


def test_padding_by_nothing_goes_away() -> None:
    text = "net (float[n,2] x) => (float[n,2] y) { a = Relu(x) b = Pad(a, pads) c = Abs(b) y = Pad(c, pads) }"
    model = parse(text, {"pads": np.zeros(4, np.int64)})
    assert FusePadIntoConvPass()(model).modified
    assert ops(model) == ["Relu", "Abs"]
    assert model.graph[1].outputs[0].name == "y"
    assert not FusePadIntoConvPass()(model).modified


@pytest.mark.parametrize(
    ("text", "pads"),
    [
        pytest.param(_net('Pad<mode="edge">(x, pads)'), _PADS, id="mode"),
        pytest.param(_net("Pad(x, pads, one)"), _PADS, id="number"),
        pytest.param(
            _net().replace("x) =>", "x, int64[8] s) =>").replace("pads)", "s)"),
            _PADS,
            id="sizes-not-constant",
        ),
        pytest.param(_net(), [0, 0, -1, 0, 0, 0, 0, 0], id="negative"),
        pytest.param(_net(), [1, 0, 0, 0, 0, 0, 0, 0], id="batch"),
        pytest.param(_net(), [0, 0, 0, 0, 0, 1, 0, 0], id="channels"),
        pytest.param(_net(more="z = Relu(p)"), _PADS, id="other-users"),
        pytest.param(_net(more="p"), _PADS, id="graph-output"),
        pytest.param(_net(conv='Conv<auto_pad="SAME_UPPER">(p, w)'), _PADS, id="auto-pad"),
        pytest.param(_net(conv="AveragePool<kernel_shape=[2,2]>(p)"), _PADS, id="not-a-conv"),
        pytest.param(
            "net (float[n,2] x) => (float[n,2] y) { y = Pad(x, pads) }", [0] * 4, id="input-to-output"
        ),
    ],
)
def test_leaves_alone(text: str, pads: list[int]) -> None:
    weights = {**_WEIGHTS, "pads": np.array(pads)}
    assert not FusePadIntoConvPass()(parse(text, weights)).modified
