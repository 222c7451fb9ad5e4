from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from compare import assert_equivalent, run_onnx
from onnx_text import ops, parse

from mpqtool.passes.normalize.identity import EliminateIdentityPass
from mpqtool.passes.pipelines import normalize

_FEEDS = {"x": np.linspace(-1, 1, 6, dtype=np.float32).reshape(2, 3)}


@pytest.mark.parametrize(
    "body",
    [
        pytest.param("t = Identity(x)  y = Relu(t)", id="first"),
        pytest.param("t = Relu(x)  y = Identity(t)", id="last"),
        pytest.param("t = Relu(x)  s = Identity(t)  u = Identity(s)  y = Add(u, s)", id="chain"),
        pytest.param("v = Identity(w)  y = Add(x, v)", id="weight"),
    ],
)
def test_removes(body: str) -> None:
    before = parse(f"net (float[2,3] x) => (float[2,3] y) {{ {body} }}", {"w": np.ones(3)})
    result = EliminateIdentityPass()(before.clone())
    assert result.modified
    assert "Identity" not in ops(result.model)
    assert_equivalent(run_onnx(before, _FEEDS), run_onnx(result.model, _FEEDS), rtol=0, atol=0)
    assert not EliminateIdentityPass()(result.model).modified


@pytest.mark.parametrize(
    ("outputs", "body"),
    [
        pytest.param("float[2,3] y", "y = Identity(x)", id="input-to-output"),
        pytest.param(
            "float[3] y, float[2,3] z", "y = Identity(w)  z = Add(x, w)", id="initializer-to-output"
        ),
        pytest.param("float[2,3] y, float[2,3] z", "y = Relu(x)  z = Identity(y)", id="output-to-output"),
    ],
)
def test_leaves_alone(outputs: str, body: str) -> None:
    before = parse(f"net (float[2,3] x) => ({outputs}) {{ {body} }}", {"w": np.ones(3)})
    assert not EliminateIdentityPass()(before.clone()).modified


def test_a_branch_keeps_its_own() -> None:
    proto = ir.to_proto(
        parse("net (float[2,3] x, bool c) => (float[2,3] y) { r = Relu(x)  y = Identity(r) }")
    )
    branch = onnx.parser.parse_graph("branch () => (float[2,3] a) { a = Identity(r) }")
    proto.graph.node[1].CopyFrom(
        onnx.helper.make_node("If", ["c"], ["y"], then_branch=branch, else_branch=branch)
    )
    model = ir.from_proto(proto)
    assert not EliminateIdentityPass()(model).modified
    normal = normalize(model)
    feeds = {**_FEEDS, "c": np.array(True)}
    assert_equivalent(run_onnx(proto, feeds), run_onnx(normal, feeds), rtol=0, atol=0)
