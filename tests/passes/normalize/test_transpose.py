from __future__ import annotations

import numpy as np
import pytest
from compare import assert_equivalent, run_onnx
from onnx_ir.passes.common import RemoveUnusedNodesPass
from onnx_text import ops, parse

from mpqtool.passes.normalize import MergeTransposePass


def _text(body: str) -> str:
    return f"net (float[2,3,4] x) => (float[a,b,c] y) {{ {body} }}"


@pytest.mark.parametrize(
    ("body", "kept"),
    [
        ("a = Transpose<perm=[0,2,1]>(x) b = Transpose<perm=[0,2,1]>(a) y = Relu(b)", ["Relu"]),
        ("r = Relu(x) a = Transpose<perm=[2,0,1]>(r) y = Transpose<perm=[1,2,0]>(a)", ["Relu"]),
        ("a = Transpose<perm=[1,2,0]>(x) y = Transpose<perm=[1,2,0]>(a)", ["Transpose"]),
        (
            "a = Transpose<perm=[1,2,0]>(x) b = Transpose<perm=[1,0,2]>(a) c = Transpose<perm=[2,0,1]>(b)"
            "y = Abs(c)",
            ["Transpose", "Abs"],
        ),
        ("a = Transpose<perm=[0,1,2]>(x) y = Abs(a)", ["Abs"]),
    ],
)
def test_merges(rng: np.random.Generator, body: str, kept: list[str]) -> None:
    feeds = {"x": rng.normal(size=(2, 3, 4)).astype(np.float32)}
    before, model = run_onnx(parse(_text(body)), feeds), parse(_text(body))

    assert MergeTransposePass()(model).modified

    RemoveUnusedNodesPass()(model)
    assert ops(model) == kept
    assert_equivalent(before, run_onnx(model, feeds), rtol=0, atol=0)
    assert not MergeTransposePass()(model).modified


def test_what_others_use_stays(rng: np.random.Generator) -> None:
    body = "a = Transpose<perm=[0,2,1]>(x) b = Transpose<perm=[0,2,1]>(a) m = MatMul(b, a) y = Relu(m)"
    feeds = {"x": rng.normal(size=(2, 3, 4)).astype(np.float32)}
    before, model = run_onnx(parse(_text(body)), feeds), parse(_text(body))
    assert MergeTransposePass()(model).modified
    assert ops(model) == ["Transpose", "MatMul", "Relu"]
    assert_equivalent(before, run_onnx(model, feeds), rtol=0, atol=0)


@pytest.mark.parametrize(
    "body",
    [
        pytest.param("a = Transpose(x) y = Transpose(a)", id="no-perm"),
        pytest.param("y = Transpose<perm=[0,2,1]>(x)", id="one"),
        pytest.param("y = Transpose<perm=[0,1,2]>(x)", id="input-to-output"),
        pytest.param(
            "a = Transpose<perm=[0,2,1]>(x) r = Relu(a) y = Transpose<perm=[0,2,1]>(r)", id="between"
        ),
    ],
)
def test_leaves_alone(body: str) -> None:
    assert not MergeTransposePass()(parse(_text(body))).modified
