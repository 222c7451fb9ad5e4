from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir
import pytest
from compare import assert_equivalent, run_onnx
from onnx_ir.passes.common import RemoveUnusedNodesPass, ShapeInferencePass
from onnx_text import ops, parse

from mpqtool.passes.normalize import FuseLayerNormPass
from mpqtool.passes.values import array

_MEAN = "m = ReduceMean(x, last) d = Sub(x, m) "
_SPREAD = _MEAN + "p = Pow(d, two) v = ReduceMean(p, last) e = Add(v, eps) s = Sqrt(e) "
_FORMS = {
    "torch": _SPREAD + "n = Div(d, s) g = Mul(n, gamma) y = Add(g, beta)",
    "swapped": _SPREAD + "n = Div(d, s) g = Mul(gamma, n) y = Add(beta, g)",
    "no-beta": _SPREAD + "n = Div(d, s) y = Mul(n, gamma)",
    "square": _MEAN + "p = Mul(d, d) v = ReduceMean(p, last) e = Add(eps, v) s = Sqrt(e) n = Div(d, s) "
    "g = Mul(n, gamma) y = Add(g, beta)",
    "reciprocal": _SPREAD + "r = Reciprocal(s) n = Mul(d, r) g = Mul(n, gamma) y = Add(g, beta)",
    "one-over": _SPREAD + "r = Div(one, s) n = Mul(r, d) g = Mul(n, gamma) y = Add(g, beta)",
    "half-power": _MEAN + "p = Pow(d, two) v = ReduceMean(p, last) e = Add(v, eps) s = Pow(e, half) "
    "n = Div(d, s) g = Mul(n, gamma) y = Add(g, beta)",
    "scale-first": _SPREAD + "r = Reciprocal(s) w = Mul(r, gamma) g = Mul(d, w) y = Add(g, beta)",
    "two-deviations": _MEAN + "d2 = Sub(x, m) p = Pow(d2, two) v = ReduceMean(p, last) e = Add(v, eps) "
    "s = Sqrt(e) n = Div(d, s) g = Mul(n, gamma) y = Add(g, beta)",
    "keras": _SPREAD + "r = Reciprocal(s) w = Mul(r, gamma) a = Mul(x, w) b = Mul(m, w) c = Sub(beta, b) "
    "y = Add(a, c)",
}


def _parse(body: str, **others: Any) -> ir.Model:
    rng = np.random.default_rng(1)
    weights = {
        "last": np.array([-1]),
        "two": np.float32(2),
        "one": np.float32(1),
        "half": np.float32(0.5),
        "eps": np.float32(1e-5),
        "gamma": rng.normal(size=6),
        "beta": rng.normal(size=6),
        **others,
    }
    used = {name: numbers for name, numbers in weights.items() if name in body}
    model = parse(f"net (float[n,4,6] x, float[6] fed) => (float[n,4,6] y) {{ {body} }}", used)
    return ShapeInferencePass()(model).model


@pytest.mark.parametrize("axes", [[-1], [2]], ids=str)
@pytest.mark.parametrize("body", _FORMS.values(), ids=_FORMS.keys())
def test_becomes_one_node(rng: np.random.Generator, body: str, axes: list[int]) -> None:
    feeds = {"x": rng.normal(1, 3, size=(2, 4, 6)).astype(np.float32), "fed": np.zeros(6, np.float32)}
    before, model = run_onnx(_parse(body, last=np.array(axes)), feeds), _parse(body, last=np.array(axes))

    assert FuseLayerNormPass()(model).modified

    RemoveUnusedNodesPass()(model)
    assert ops(model) == ["LayerNormalization"]
    (node,) = model.graph
    assert [value.name for value in node.inputs] == ["x", "gamma", "beta"][: 2 if "beta" not in body else 3]
    assert node.attributes["epsilon"].as_float() == pytest.approx(1e-5)
    assert_equivalent(before, run_onnx(model, feeds), rtol=1e-5, atol=1e-5)  # sums in another order
    assert not FuseLayerNormPass()(model).modified


def test_over_two_axes(rng: np.random.Generator) -> None:
    weights = {"last": np.array([1, -1]), "gamma": rng.normal(size=(4, 6)), "beta": rng.normal(size=(4, 6))}
    feeds = {"x": rng.normal(size=(2, 4, 6)).astype(np.float32), "fed": np.zeros(6, np.float32)}
    model = _parse(_FORMS["torch"], **weights)
    before = run_onnx(model, feeds)
    assert FuseLayerNormPass()(model).modified
    RemoveUnusedNodesPass()(model)
    assert ops(model) == ["LayerNormalization"]
    assert_equivalent(before, run_onnx(model, feeds), rtol=1e-5, atol=1e-5)


def test_leading_ones_of_the_weights_go(rng: np.random.Generator) -> None:
    weights = {"gamma": rng.normal(size=(1, 1, 6)), "beta": rng.normal(size=(1, 6))}
    feeds = {"x": rng.normal(size=(2, 4, 6)).astype(np.float32), "fed": np.zeros(6, np.float32)}
    model = _parse(_FORMS["torch"], **weights)
    before = run_onnx(model, feeds)
    assert FuseLayerNormPass()(model).modified
    assert {name: array(model.graph.initializers[name]).shape for name in weights} == {
        "gamma": (6,),
        "beta": (6,),
    }
    assert_equivalent(before, run_onnx(model, feeds), rtol=1e-5, atol=1e-5)


def test_weights_that_others_use_are_copied(rng: np.random.Generator) -> None:
    body = _FORMS["torch"].replace("y = Add(g, beta)", "h = Add(g, beta) y = Mul(h, gamma)")
    model = _parse(body, gamma=rng.normal(size=(1, 1, 6)))
    feeds = {"x": rng.normal(size=(2, 4, 6)).astype(np.float32), "fed": np.zeros(6, np.float32)}
    before = run_onnx(model, feeds)
    assert FuseLayerNormPass()(model).modified
    assert array(model.graph.initializers["gamma"]).shape == (1, 1, 6)
    assert_equivalent(before, run_onnx(model, feeds), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    "body",
    [
        pytest.param(_FORMS["torch"].replace("gamma", "fed"), id="gamma-not-constant"),
        pytest.param(_SPREAD + "n = Div(d, s) y = Add(n, beta)", id="no-gamma"),
        pytest.param(_FORMS["torch"].replace("Sub(x, m)", "Sub(m, x)"), id="mean-minus-x"),
        pytest.param(_FORMS["torch"].replace("Pow(d, two)", "Pow(x, two)"), id="second-moment"),
        pytest.param(_FORMS["torch"].replace("Pow(d, two)", "Pow(d, one)"), id="not-squared"),
        pytest.param(_FORMS["torch"].replace("Sqrt", "Exp"), id="no-root"),
        pytest.param(_FORMS["torch"].replace("Add(v, eps)", "Add(v, m)"), id="epsilon-not-constant"),
        pytest.param(_FORMS["torch"].replace("ReduceMean(p, last)", "ReduceMax(p, last)"), id="maximum"),
        pytest.param(_FORMS["torch"].replace("ReduceMean(p, last)", "ReduceMean(p, other)"), id="other-axes"),
        pytest.param(_FORMS["torch"].replace("last", "other"), id="not-the-last-axes"),
        pytest.param(_FORMS["torch"].replace("gamma", "single"), id="gamma-of-another-size"),
        pytest.param(_FORMS["keras"].replace("Sub(beta, b)", "Sub(b, beta)"), id="keras-sign"),
        pytest.param(_FORMS["keras"].replace("Mul(m, w)", "Mul(m, r)"), id="keras-other-weight"),
    ],
)
def test_leaves_alone(body: str) -> None:
    model = _parse(body, other=np.array([1]), single=np.float32(2))
    assert not FuseLayerNormPass()(model).modified


def test_a_beta_that_does_not_fit_stays_behind(rng: np.random.Generator) -> None:
    model = _parse(_FORMS["torch"].replace("beta", "column"), column=rng.normal(size=(4, 1)))
    feeds = {"x": rng.normal(size=(2, 4, 6)).astype(np.float32), "fed": np.zeros(6, np.float32)}
    before = run_onnx(model, feeds)
    assert FuseLayerNormPass()(model).modified
    RemoveUnusedNodesPass()(model)
    assert ops(model) == ["LayerNormalization", "Add"]
    assert_equivalent(before, run_onnx(model, feeds), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", ["gamma", "beta", "eps", "two"])
def test_a_constant_of_more_dimensions_gives_them_to_the_result(rng: np.random.Generator, name: str) -> None:
    sizes = {"gamma": (1, 1, 1, 6), "beta": (1, 1, 1, 6), "eps": (1, 1, 1, 1), "two": (1, 1, 1, 1)}
    weights = {"gamma": rng.normal(size=6), "beta": rng.normal(size=6), "eps": 1e-5, "two": 2.0}
    weights[name] = np.broadcast_to(weights[name], sizes[name])
    weights["last"] = np.array([-1])
    text = f"net (float[n,4,6] x) => (float[a,n,4,6] y) {{ {_FORMS['torch']} }}"
    model = ShapeInferencePass()(parse(text, weights)).model
    feeds = {"x": rng.normal(size=(2, 4, 6)).astype(np.float32)}
    before = run_onnx(model, feeds)
    FuseLayerNormPass()(model)
    RemoveUnusedNodesPass()(model)
    assert ("LayerNormalization" in ops(model)) is (name == "beta")
    assert_equivalent(before, run_onnx(model, feeds), rtol=1e-5, atol=1e-5)  # sums in another order
