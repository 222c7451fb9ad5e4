from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir
import pytest
from compare import assert_equivalent, run_onnx
from numpy.typing import NDArray
from onnx_text import ops, parse

from mpqtool.passes.normalize import FoldBatchNormPass, InferShapesPass, RewriteConvTransposePass
from mpqtool.passes.normalize.conv_transpose import refusal
from mpqtool.passes.pipelines import normalize
from mpqtool.passes.values import array

_ROUNDING = {"rtol": 1e-5, "atol": 1e-5}  # of results up to 10: products summed in another order


def _model(attributes: str, kernel: tuple[int, ...], *, group: int = 1, behind: str = "") -> ir.Model:
    """A ConvTranspose of 4 channels to 6, free sizes, and what is behind it."""
    rng = np.random.default_rng(0)
    sizes = "h,w,"[: 2 * len(kernel)][:-1]
    text = f"""net (float[n,4,{sizes}] x) => (float[n,6,{sizes.replace("h", "a").replace("w", "b")}] y) {{
        {"t" if behind else "y"} = ConvTranspose<{attributes}>(x, w, b) {behind}
    }}"""
    weights = {
        "w": rng.normal(size=(4, 6 // group, *kernel)),
        "b": rng.normal(size=6),
        "gamma": rng.normal(size=6),
        "beta": rng.normal(size=6),
        "mean": rng.normal(size=6),
        "var": rng.uniform(0.5, 2, size=6),
        "high": np.float32(2),
    }
    used = {name: numbers for name, numbers in weights.items() if name in {"w", "b"} or name in behind}
    return InferShapesPass()(parse(text, used)).model


def _feeds(rank: int) -> dict[str, NDArray[Any]]:
    return {"x": np.random.default_rng(1).normal(size=(2, 4, *(5, 3)[:rank])).astype(np.float32)}


@pytest.mark.parametrize(
    ("attributes", "kernel", "crops"),
    [
        pytest.param("strides=[2,2]", (2, 2), False, id="k2s2"),
        pytest.param("strides=[3,3]", (3, 3), False, id="k3s3"),
        pytest.param("strides=[2,2], pads=[1,1,1,1]", (4, 4), True, id="k4s2p1"),
        pytest.param("strides=[2,2], pads=[2,2,2,2]", (4, 4), False, id="k4s2p2"),
        pytest.param("strides=[2,2], pads=[0,3,1,2]", (6, 4), True, id="uneven-kernel-and-pads"),
        pytest.param(
            "strides=[2,2], pads=[1,1,1,1], output_padding=[1,1]", (4, 4), True, id="output-padding"
        ),
        pytest.param("strides=[3,3], output_padding=[2,1]", (3, 6), True, id="padding-alone"),
        pytest.param("strides=[4,4], pads=[6,6,6,6], output_padding=[0,3]", (8, 8), True, id="k8s4"),
        pytest.param("pads=[1,1,1,1]", (3, 3), False, id="stride-1"),
        pytest.param("pads=[1,0,0,2]", (3, 4), False, id="stride-1-uneven"),
        pytest.param("strides=[2]", (2,), False, id="1d"),
        pytest.param("strides=[2], pads=[1,1]", (4,), True, id="1d-k4s2p1"),
        pytest.param("strides=[5], pads=[2,3], output_padding=[4]", (10,), True, id="1d-k10s5"),
        pytest.param("pads=[2,1]", (5,), False, id="1d-stride-1"),
    ],
)
@pytest.mark.parametrize("group", [1, 2])
def test_fires(attributes: str, kernel: tuple[int, ...], crops: bool, group: int) -> None:
    attributes += f", group={group}"
    feeds = _feeds(len(kernel))
    before = run_onnx(_model(attributes, kernel, group=group), feeds)

    result = RewriteConvTransposePass()(_model(attributes, kernel, group=group))

    assert result.modified
    found = ops(result.model)
    assert found[0] == "Conv"
    assert ("Slice" in found) is crops
    after = run_onnx(InferShapesPass()(result.model).model, feeds)
    assert_equivalent(before, after, **_ROUNDING)
    assert [value.name for value in result.model.graph[0].inputs] == ["x", "w", "b"]
    assert not RewriteConvTransposePass()(result.model).modified


_BEHIND = "s = BatchNormalization(t, gamma, beta, mean, var) r = Relu(s) y = Clip(r, , high)"


@pytest.mark.parametrize(
    ("attributes", "kernel"), [("strides=[2,2], pads=[1,1,1,1]", (4, 4)), ("strides=[2]", (2,))]
)
def test_what_follows_belongs_to_the_conv(attributes: str, kernel: tuple[int, ...]) -> None:
    feeds = _feeds(len(kernel))
    before = run_onnx(_model(attributes, kernel, behind=_BEHIND), feeds)

    model = RewriteConvTransposePass()(_model(attributes, kernel, behind=_BEHIND)).model

    assert ops(model)[:4] == ["Conv", "BatchNormalization", "Relu", "Clip"]
    phases = 2 ** len(kernel)
    assert [value.shape[0] for value in model.graph[1].inputs[1:]] == [6 * phases] * 4
    assert_equivalent(before, run_onnx(model, feeds), **_ROUNDING)
    folded = FoldBatchNormPass()(model).model
    assert ops(folded)[:3] == ["Conv", "Relu", "Clip"]
    assert_equivalent(before, run_onnx(folded, feeds), **_ROUNDING)


@pytest.mark.parametrize(
    ("attributes", "kernel", "reason"),
    [
        pytest.param(
            "strides=[2,2]", (3, 3), "its kernel size 3 is no multiple of its stride 2", id="no-multiple"
        ),
        pytest.param("strides=[2,2], dilations=[2,2]", (2, 2), "it has dilations", id="dilated"),
        pytest.param(
            'strides=[2,2], auto_pad="SAME_UPPER"', (2, 2), "its padding is automatic", id="automatic"
        ),
        pytest.param(
            "strides=[2,2], output_shape=[10,6]", (2, 2), "its padding is automatic", id="output-shape"
        ),
        pytest.param(
            "strides=[2,2], pads=[2,0,0,0]", (2, 2), "it is padded by a whole kernel", id="padded-by-a-kernel"
        ),
        pytest.param(
            "strides=[2,1]", (2, 2), "its strides are [2, 1], allowed are equal ones", id="strides-differ"
        ),
    ],
)
def test_leaves_alone(attributes: str, kernel: tuple[int, ...], reason: str) -> None:
    result = RewriteConvTransposePass()(_model(attributes, kernel))
    assert not result.modified
    assert refusal(result.model.graph[0]) == reason


def test_three_dimensions_and_a_weight_that_is_no_constant_are_left_alone() -> None:
    text = "net (float[n,1,4,4,4] x) => (float[n,1,8,8,8] y) { y = ConvTranspose<strides=[2,2,2]>(x, w) }"
    assert not RewriteConvTransposePass()(parse(text, {"w": np.ones((1, 1, 2, 2, 2))})).modified
    text = "net (float[n,1,4] x, float[1,1,2] w) => (float[n,1,8] y) { y = ConvTranspose<strides=[2]>(x, w) }"
    assert not RewriteConvTransposePass()(parse(text)).modified


def test_a_weight_of_two_layers_is_copied() -> None:
    text = """net (float[n,3,h,w] x) => (float[n,3,a,b] y) {
        t = ConvTranspose<strides=[2,2]>(x, k)  y = ConvTranspose<strides=[2,2]>(t, k)
    }"""
    weights = {"k": np.random.default_rng(0).normal(size=(3, 3, 2, 2))}
    feeds = {"x": np.random.default_rng(1).normal(size=(2, 3, 4, 3)).astype(np.float32)}
    before = run_onnx(parse(text, weights), feeds)
    model = RewriteConvTransposePass()(parse(text, weights)).model
    assert_equivalent(before, run_onnx(model, feeds), **_ROUNDING)
    names = {node.inputs[1].name for node in model.graph if node.op_type == "Conv"}
    assert len(names) == 2
    assert "k" in names


def test_the_normal_form_holds_layers_and_moves() -> None:
    behind = "s = BatchNormalization(t, gamma, beta, mean, var) y = Relu(s)"
    given = _model("strides=[2,2]", (2, 2), behind=behind)
    assert refusal(given.graph[0]) is None
    model = normalize(given, fold_batch_norm=True)
    assert ops(model) == ["Conv", "Relu", "DepthToSpace"]
    assert array(model.graph[0].inputs[1]).shape == (24, 4, 1, 1)
    before = run_onnx(_model("strides=[2,2]", (2, 2), behind=behind), _feeds(2))
    assert_equivalent(before, run_onnx(model, _feeds(2)), **_ROUNDING)
