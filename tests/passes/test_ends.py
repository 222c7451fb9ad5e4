from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from onnx_text import parse

from mpqtool.passes.ends import end_layers
from mpqtool.passes.pipelines import normalize
from mpqtool.passes.place import place
from mpqtool.passes.plan import Grid, Plan

_LAYERS = {name: np.full((2, 2, 1, 1), number) for number, name in enumerate("abcdefg", start=1)}
_CONSTANTS = {"k": np.full((1, 2, 1, 1), 0.5), "n": np.ones(2), "m": np.ones((2, 2))}
_PLAIN = "p = Conv(x, a) q = Conv(p, b) y = Conv(q, c)"


def _model(body: str, outputs: str = "float[n,2,h,w] y", inputs: str = "float[n,2,6,6] x") -> Any:
    """Layers are ``Conv(_, a)`` to ``Conv(_, g)``, and a Gemm with ``m``."""
    known = {name: value for name, value in {**_LAYERS, **_CONSTANTS}.items() if f", {name}" in body}
    text = f"net ({inputs}) => ({outputs}) {{ {body} }}"
    return normalize(parse(text, known), fold_batch_norm=True)


def _ends(body: str, *shapes: str) -> set[str]:
    return {str(node.inputs[1].name) for node in end_layers(_model(body, *shapes).graph)}  # type: ignore[union-attr]


def test_the_first_and_the_last_layer() -> None:
    assert _ends(_PLAIN) == {"a", "c"}


def test_one_layer_is_both() -> None:
    assert _ends("y = Conv(x, a)") == {"a"}


@pytest.mark.parametrize(
    "prepared",
    [
        pytest.param("i = Sub(x, k) j = Div(i, k)", id="normalized"),
        pytest.param("j = Mul(x, k)", id="scaled"),
        pytest.param("j = BatchNormalization(x, n, n, n, n)", id="batch-norm"),
        pytest.param("j = Transpose<perm=[0,1,3,2]>(x)", id="moved"),
        pytest.param('j = Pad<mode="reflect">(x, s)', id="padded"),
        pytest.param("i = Add(x, x) j = Relu(i)", id="clamped"),
    ],
)
def test_the_first_layer_is_behind_what_prepares_the_input(prepared: str) -> None:
    pads = "s = Constant<value_ints=[0,0,1,1,0,0,1,1]>()" if ", s)" in prepared else ""
    assert _ends(f"{pads} {prepared} p = Conv(j, a) q = Conv(p, b) y = Conv(q, c)") == {"a", "c"}


def test_an_input_that_is_cast() -> None:
    body = "j = Cast<to=1>(x) p = Conv(j, a) q = Conv(p, b) y = Conv(q, c)"
    assert _ends(body, "float[n,2,h,w] y", "uint8[n,2,6,6] x") == {"a", "c"}


def test_two_inputs_and_two_outputs() -> None:
    body = "p = Conv(x, a) q = Conv(u, b) s = Add(p, q) r = Conv(s, c) y = Conv(r, d) z = Conv(r, e)"
    inputs = "float[n,2,6,6] x, float[n,2,6,6] u"
    assert _ends(body, "float[n,2,h,w] y, float[n,2,h,w] z", inputs) == {"a", "b", "d", "e"}


def test_two_inputs_that_are_joined() -> None:
    body = "i = Sub(x, u) p = Conv(i, a) q = Conv(p, b) y = Conv(q, c)"
    assert _ends(body, "float[n,2,h,w] y", "float[n,2,6,6] x, float[n,2,6,6] u") == {"a", "c"}


def test_an_input_that_joins_late_has_no_first_layer() -> None:
    body = "p = Conv(x, a) i = Add(p, u) q = Conv(i, b) y = Conv(q, c)"
    assert _ends(body, "float[n,2,h,w] y", "float[n,2,6,6] x, float[n,2,6,6] u") == {"a", "c"}


def test_both_branches_of_a_last_sum() -> None:
    assert _ends("p = Conv(x, a) r = Conv(p, b) q = Conv(r, c) t = Conv(p, d) s = Add(q, t) y = Relu(s)") == {
        "a", "c", "d",
    }  # fmt: skip


_EXCITED = "g = GlobalAveragePool(p) h = Conv(g, b) i = Relu(h) j = Conv(i, c) s = Sigmoid(j) t = Mul(p, s)"


@pytest.mark.parametrize(
    ("behind", "ends"),
    [
        pytest.param("y = Conv(t, d)", {"a", "d"}, id="inside"),
        pytest.param("y = Identity(t)", {"a"}, id="at-the-end"),
        pytest.param("y = Relu(t)", {"a"}, id="before-a-function"),
    ],
)
def test_squeeze_and_excitation_is_not_an_end(behind: str, ends: set[str]) -> None:
    assert _ends(f"p = Conv(x, a) {_EXCITED} {behind}") == ends


def test_heads_of_a_detector() -> None:
    """Scores are products of two probabilities, boxes are resized to a size of an earlier layer."""
    body = (
        "p = Conv(x, a) q = Conv(p, b) o = Conv(q, c) k1 = Sigmoid(o) l = Conv(q, d) k2 = Sigmoid(l) "
        "y = Mul(k1, k2) v = Conv(q, e) size = Shape(q) z = Reshape(v, size)"
    )
    inputs = "float[n,2,h,w] x"
    assert _ends(body, "float[n,2,h,w] y, float[n,2,h,w] z", inputs) == {"a", "c", "d", "e"}


def test_the_class_of_an_image() -> None:
    body = "p = Conv(x, a) q = Conv(p, b) g = GlobalAveragePool(q) f = Flatten(g) l = Gemm<transB=1>(f, m) "
    assert _ends(body + "y = ArgMax<axis=1, keepdims=0>(l)", "int64[n] y") == {"a", "m"}


def _plan(body: str, end_bits: int | None = 8) -> tuple[dict[str, set[int]], dict[str, int]]:
    plan: Plan = place(_model(body), weight_bits=2, activation_bits=3, grid=Grid.ODD, end_bits=end_bits)
    return {w.name: set(w.bits) for w in plan.weights}, {a.name: a.bits for a in plan.activations}


def test_end_layers_have_their_own_width() -> None:
    weights, activations = _plan(_PLAIN, end_bits=6)
    assert weights == {"a": {6}, "b": {2}, "c": {6}}
    assert activations == {"x": 8, "p": 3, "q": 6, "y": 8}  # nothing multiplies y


def test_all_layers_have_one_width_without() -> None:
    weights, activations = _plan(_PLAIN, end_bits=None)
    assert weights == {"a": {2}, "b": {2}, "c": {2}}
    assert activations == {"x": 8, "p": 3, "q": 3, "y": 8}


def test_what_another_layer_multiplies_too_is_not_widened() -> None:
    _, activations = _plan("p = Conv(x, a) q = Conv(p, b) r = Conv(p, c) y = Add(q, r)")
    assert activations["p"] == 8  # both are last layers
    _, activations = _plan("p = Conv(x, a) q = Conv(p, b) t = Conv(q, d) r = Conv(p, c) y = Add(t, r)")
    assert activations == {"x": 8, "p": 3, "q": 8, "t": 8, "r": 8, "y": 8}
    body = "p = Conv(x, a) z = Transpose<perm=[0,1,3,2]>(p) q = MatMul(p, z) r = Conv(p, b) y = Add(q, r)"
    _, activations = _plan(body)
    assert activations["p"] == 3


def test_a_weight_that_an_end_shares_is_wide() -> None:
    weights, _ = _plan("p = Conv(x, a) q = Conv(p, b) r = Conv(q, b) y = Conv(r, b)")
    assert weights == {"a": {8}, "b": {8}}
