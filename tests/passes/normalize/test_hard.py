from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from compare import assert_equivalent, run_onnx
from onnx_ir.passes.common import RemoveUnusedNodesPass, ShapeInferencePass
from onnx_text import ops, parse

from mpqtool.passes.normalize import FuseHardActivationsPass
from mpqtool.passes.pipelines import normalize

_GATES = {
    "clip": "a = Add(x, three) g = Clip(a, zero, six)",
    "clip-swapped": "a = Add(three, x) g = Clip(a, zero, six)",
    "minus": "a = Sub(x, minus_three) g = Clip(a, zero, six)",
    "min-max": "a = Add(x, three) b = Max(a, zero) g = Min(b, six)",
    "max-min": "a = Add(x, three) b = Min(six, a) g = Max(zero, b)",
    "relu-min": "a = Add(x, three) b = Relu(a) g = Min(b, six)",
    "relu-clip": "a = Add(x, three) b = Relu(a) g = Clip(b, , six)",
}
_PRODUCTS = {
    "product-div": "m = Mul(x, g) y = Div(m, six)",
    "product-mul": "m = Mul(g, x) y = Mul(m, sixth)",
    "gate-div": "d = Div(g, six) y = Mul(x, d)",
    "gate-mul": "d = Mul(sixth, g) y = Mul(d, x)",
    "x-div": "d = Div(x, six) y = Mul(d, g)",
    "x-mul": "d = Mul(x, sixth) y = Mul(g, d)",
}
_NUMBERS = {
    "zero": 0.0,
    "three": 3.0,
    "six": 6.0,
    "sixth": 1 / 6,
    "minus_three": -3.0,
    "half": 0.5,
    "one": 1.0,
}


def _text(body: str) -> str:
    return f"net (float[n,2,5] x) => (float[n,2,5] y) {{ {body} }}"


def _used(body: str, **others: Any) -> dict[str, Any]:
    numbers = {**_NUMBERS, **others}
    words = body.replace("(", " ").replace(")", " ").replace(",", " ").split()
    return {name: value for name, value in numbers.items() if name in words}


_FEEDS = {"x": np.linspace(-5, 5, 40, dtype=np.float32).reshape(4, 2, 5)}


@pytest.mark.parametrize("shape", [(), (1,), (1, 1, 1)], ids=["scalar", "one", "rank3"])
@pytest.mark.parametrize("product", _PRODUCTS.values(), ids=_PRODUCTS.keys())
@pytest.mark.parametrize("gate", _GATES.values(), ids=_GATES.keys())
def test_hard_swish(gate: str, product: str, shape: tuple[int, ...]) -> None:
    body = f"{gate} {product}"
    weights = {name: np.float32(number) for name, number in _used(body).items()}
    if "Clip" not in body:  # its bounds are scalars
        weights = {name: np.full(shape, number, np.float32) for name, number in weights.items()}
    before = run_onnx(parse(_text(body), weights), _FEEDS)
    model = ShapeInferencePass()(parse(_text(body), weights)).model

    result = FuseHardActivationsPass()(model)

    assert result.modified
    RemoveUnusedNodesPass()(model)
    assert ops(model) == ["HardSwish"]
    assert_equivalent(before, run_onnx(model, _FEEDS), rtol=1e-6, atol=1e-6)  # rounding of the products
    assert not FuseHardActivationsPass()(model).modified


@pytest.mark.parametrize(
    "body",
    [
        "g = HardSigmoid<alpha=0.16666667, beta=0.5>(x) y = Mul(x, g)",
        "g = HardSigmoid<alpha=0.1666667, beta=0.5>(x) y = Mul(g, x)",  # paddle
        "g = HardSigmoid<alpha=1.0, beta=3.0>(x) y = Mul(g, x)",
    ],
    ids=["torch", "paddle", "wrong"],
)
def test_hard_swish_by_hard_sigmoid(body: str) -> None:
    model = parse(_text(body))
    before = run_onnx(model, _FEEDS)
    modified = FuseHardActivationsPass()(model).modified
    RemoveUnusedNodesPass()(model)
    assert ops(model) == (["HardSwish"] if "beta=0.5" in body else ["HardSigmoid", "Mul"])
    assert modified is ("beta=0.5" in body)
    assert_equivalent(before, run_onnx(model, _FEEDS), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(
    ("body", "alpha"),
    [
        *((f"{gate} y = Div(g, six)", 1 / 6) for gate in _GATES.values()),
        ("a = Mul(x, k) b = Add(a, half) y = Clip(b, zero, one)", 0.2),  # Keras
        ("a = Div(x, six) b = Add(half, a) c = Min(b, one) y = Max(c, zero)", 1 / 6),
        ("n = Neg(x) a = Mul(n, k) b = Add(a, half) y = Clip(b, zero, one)", -0.2),
        ("a = Mul(x, k) b = Sub(half, a) y = Clip(b, zero, one)", -0.2),
    ],
)
def test_hard_sigmoid(body: str, alpha: float) -> None:
    weights = {name: np.float32(number) for name, number in _used(body, k=0.2).items()}
    before = run_onnx(parse(_text(body), weights), _FEEDS)
    model = parse(_text(body), weights)

    assert FuseHardActivationsPass()(model).modified

    RemoveUnusedNodesPass()(model)
    assert ops(model) == ["HardSigmoid"]
    assert model.graph[0].attributes["alpha"].as_float() == pytest.approx(alpha, rel=1e-6)
    assert_equivalent(before, run_onnx(model, _FEEDS), rtol=1e-6, atol=1e-6)
    assert not FuseHardActivationsPass()(model).modified


@pytest.mark.parametrize(
    "body",
    [
        pytest.param(
            "a = Add(x, three) g = Clip(a, zero, six) m = Mul(x, g) y = Div(m, three)", id="other-divisor"
        ),
        pytest.param(
            "a = Add(x, three) g = Clip(a, zero, three) m = Mul(x, g) y = Div(m, six)", id="other-bound"
        ),
        pytest.param(
            "a = Add(x, six) g = Clip(a, zero, six) m = Mul(x, g) y = Div(m, six)", id="other-shift"
        ),
        pytest.param("a = Add(x, three) g = Relu(a) m = Mul(x, g) y = Div(m, six)", id="no-bound"),
        pytest.param("a = Add(x, three) g = Clip(a, low, six) m = Mul(x, g) y = Div(m, six)", id="other-low"),
        pytest.param(
            "r = Relu(x) a = Add(x, three) g = Clip(a, zero, six) m = Mul(r, g) y = Div(m, six)",
            id="gated-relu",
        ),
        pytest.param("y = Clip(x, zero, six)", id="relu6"),
        pytest.param("a = Mul(x, k) b = Add(a, half) y = Clip(b, zero, one)", id="learned-slope"),
        pytest.param("y = Clip(x, zero, one)", id="clip"),
        pytest.param("a = Mul(x, half) y = Clip(a, zero, one)", id="no-half"),
        pytest.param("a = Add(x, array) g = Clip(a, zero, six) m = Mul(x, g) y = Div(m, six)", id="array"),
        pytest.param(
            "a = Add(x, wide) g = Clip(a, zero, six) m = Mul(x, g) y = Div(m, six)", id="more-dimensions"
        ),
        pytest.param("d = Div(six, x) a = Add(x, three) g = Clip(a, zero, six) y = Mul(d, g)", id="over-x"),
    ],
)
def test_leaves_alone(body: str) -> None:
    others = {"low": np.float32(-1), "array": np.full(5, 3.0), "wide": np.full((1, 1, 1, 1), 3.0), "k": 0.37}
    weights = _used(body, **others)
    model = parse(
        _text(body).replace("=> (float[n,2,5] y)", "=> (float[a,b,c,d] y)")
        if "wide" in body
        else _text(body),
        weights,
    )
    assert not FuseHardActivationsPass()(model).modified


def test_a_gate_that_others_use_stays() -> None:
    body = "a = Add(x, three) g = Clip(a, zero, six) m = Mul(x, g) h = Div(m, six) y = Add(h, g)"
    model = parse(_text(body), _used(body))
    before = run_onnx(model, _FEEDS)
    assert FuseHardActivationsPass()(model).modified
    RemoveUnusedNodesPass()(model)
    assert sorted(ops(model)) == ["Add", "Add", "Clip", "HardSwish"]
    assert_equivalent(before, run_onnx(model, _FEEDS), rtol=1e-6, atol=1e-6)


def test_a_shift_behind_a_convolution_is_not_its_bias() -> None:
    text = """net (float[n,2,5,5] x) => (float[n,4,5,5] y) {
        c = Conv(x, w) a = Add(c, three) g = Clip(a, zero, six) y = Div(g, six) }"""
    model = normalize(parse(text, {"w": np.ones((4, 2, 1, 1)), **_used("three zero six")}))
    assert ops(model) == ["Conv", "HardSigmoid"]


@pytest.mark.parametrize("body", ["m = Mul(x, c) y = Div(m, six)", "y = Div(c, six)"])
def test_integers_are_divided_in_another_way(body: str) -> None:
    text = f"net (int64[n] x) => (int64[n] y) {{ a = Add(x, three) c = Clip(a, zero, six) {body} }}"
    weights = {name: np.array(number) for name, number in (("three", 3), ("zero", 0), ("six", 6))}
    assert not FuseHardActivationsPass()(ShapeInferencePass()(parse(text, weights)).model).modified
