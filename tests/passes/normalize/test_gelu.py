from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest
from compare import assert_equivalent, run_onnx
from onnx_ir.passes.common import RemoveUnusedNodesPass
from onnx_text import ops, parse

from mpqtool.passes.normalize import FuseGeluPass

_NUMBERS = {
    "root2": np.sqrt(2),
    "root_half": np.sqrt(0.5),
    "one": 1,
    "half": 0.5,
    "two": 2,
    "three": 3,
    "k": np.sqrt(2 / np.pi),
    "c": 0.044715,
    "kc": np.sqrt(2 / np.pi) * 0.044715,
}
_ERF = {
    "torch": "d = Div(x, root2) e = Erf(d) a = Add(e, one) m = Mul(x, a) y = Mul(m, half)",
    "half-first": "h = Mul(half, x) d = Mul(x, root_half) e = Erf(d) a = Add(one, e) y = Mul(h, a)",
    "half-gate": "d = Mul(root_half, x) e = Erf(d) a = Add(e, one) g = Mul(a, half) y = Mul(g, x)",
    "over-two": "h = Div(x, two) d = Div(x, root2) e = Erf(d) a = Add(e, one) y = Mul(h, a)",
    "spread": "d = Div(x, root2) e = Erf(d) f = Mul(e, half) a = Add(f, half) y = Mul(x, a)",
}
_TANH = {
    "pow": "p = Pow(x, three) q = Mul(p, c) i = Add(x, q) s = Mul(i, k) t = Tanh(s) a = Add(t, one) "
    "m = Mul(x, a) y = Mul(half, m)",
    "products": "u = Mul(x, x) p = Mul(u, x) q = Mul(c, p) i = Add(q, x) s = Mul(k, i) t = Tanh(s) "
    "a = Add(one, t) h = Mul(x, half) y = Mul(h, a)",
    "factored": "u = Mul(x, x) q = Mul(u, c) i = Add(one, q) v = Mul(x, k) s = Mul(v, i) t = Tanh(s) "
    "a = Add(one, t) g = Mul(half, a) y = Mul(x, g)",
    "square": "u = Pow(x, two) q = Mul(u, kc) i = Add(q, k) s = Mul(x, i) t = Tanh(s) a = Add(t, one) "
    "m = Mul(a, x) y = Div(m, two)",
}
_FEEDS = {"x": np.linspace(-4, 4, 40, dtype=np.float32).reshape(4, 10)}


def _parse(body: str) -> ir.Model:
    words = body.replace("(", " ").replace(")", " ").replace(",", " ").split()
    weights = {name: np.float32(number) for name, number in _NUMBERS.items() if name in words}
    return parse(f"net (float[n,10] x) => (float[n,10] y) {{ {body} }}", weights)


@pytest.mark.parametrize(
    ("body", "mode"),
    [
        *(pytest.param(body, "none", id=f"erf-{name}") for name, body in _ERF.items()),
        *(pytest.param(body, "tanh", id=f"tanh-{name}") for name, body in _TANH.items()),
    ],
)
def test_becomes_one_node(body: str, mode: str) -> None:
    before, model = run_onnx(_parse(body), _FEEDS), _parse(body)

    assert FuseGeluPass()(model).modified

    RemoveUnusedNodesPass()(model)
    assert ops(model) == ["Gelu"]
    assert model.graph[0].attributes.get_string("approximate", "none") == mode
    assert_equivalent(before, run_onnx(model, _FEEDS), rtol=1e-5, atol=1e-6)  # 1 + erf(x) cancels
    assert not FuseGeluPass()(model).modified


@pytest.mark.parametrize(
    "body",
    [
        pytest.param(_ERF["torch"].replace("root2", "two"), id="other-divisor"),
        pytest.param(_ERF["torch"].replace("half", "one"), id="not-half"),
        pytest.param(_ERF["torch"].replace("Add(e, one)", "Sub(e, one)"), id="minus-one"),
        pytest.param(_ERF["torch"].replace("Erf", "Tanh"), id="tanh-of-a-line"),
        pytest.param(_TANH["pow"].replace("three", "two"), id="square"),
        pytest.param(_TANH["pow"].replace("Mul(p, c)", "Mul(p, k)"), id="other-coefficient"),
        pytest.param(_TANH["pow"].replace("Mul(x, a)", "Mul(p, a)"), id="other-factor"),
        pytest.param(_ERF["torch"].replace("Div(x, root2)", "Relu(x)"), id="clipped"),
    ],
)
def test_leaves_alone(body: str) -> None:
    assert not FuseGeluPass()(_parse(body)).modified
