from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir
import pytest
from graphs import normal

from mpqtool.passes.place import place
from mpqtool.passes.plan import Grid, Plan
from mpqtool.passes.quantize import check_fits
from mpqtool.passes.roles import Role, foldable, roles

_CONSTANTS = {
    "w": np.ones((2, 2, 1, 1)),
    "v": np.full((2, 2, 1, 1), 2.0),
    "k": np.array([1.0, 2.0]).reshape(2, 1, 1),
    "l": np.array([1.0, -2.0]).reshape(2, 1, 1),
    "three": np.array(3.0),
    "quick": np.array(1.702),
    "low": np.array(-1.0),
    "high": np.array(1.0),
    "axes": np.array([2, 3]),
}
SWISH = "s = Sigmoid(c) v1 = Mul(c, s)"


def _model(body: str) -> tuple[ir.Model, Plan]:
    """``body`` makes ``u`` of ``c``, which a layer makes of ``x``; a layer uses it."""
    text = f"net (float[n,2,6,6] x) => (float[n,2,p,q] y) {{ c = Conv(x, w) {body} y = Conv(u, v) }}"
    used = {name: value for name, value in _CONSTANTS.items() if f"({name}," in text or f", {name}" in text}
    model = normal(text, used)
    return model, place(model, weight_bits=4, activation_bits=4, grid=Grid.ODD)


def _role(body: str, name: str = "u") -> Role:
    return roles(*_model(body))[name]


@pytest.mark.parametrize("function", ["Relu(c)", "Sigmoid(c)", "HardSigmoid(c)", "Softplus(c)"])
def test_behind_relu_and_sigmoid_nothing_is_negative(function: str) -> None:
    assert _role(f"u = {function}") is Role.NONNEGATIVE


@pytest.mark.parametrize(
    "function",
    [
        "Abs(c)", "Exp(c)", "Sqrt(c)", "ReduceL1<keepdims=1>(c, axes)", "ReduceL2<keepdims=1>(c, axes)",
        "ReduceSumSquare<keepdims=1>(c, axes)", "Mul(c, c)",
    ],
)  # fmt: skip
def test_what_is_never_negative_by_definition_has_the_zero_point_0(function: str) -> None:
    model, plan = _model(f"u = {function}")
    assert roles(model, plan)["u"] is Role.NONNEGATIVE
    entry = plan.activation("u")
    assert entry is not None
    assert entry.zero_point == 0


def test_a_product_of_two_values_may_be_negative() -> None:
    assert _role("d = Conv(x, v) u = Mul(c, d)") is Role.SIGNED


@pytest.mark.parametrize(
    "function",
    [
        "Celu(c)", "Elu(c)", "Gelu(c)", "HardSwish(c)", "LeakyRelu(c)", "LeakyRelu<alpha=0.3>(c)", "Mish(c)",
        "Selu(c)",
    ],
)  # fmt: skip
def test_functions_with_a_smaller_negative_side(function: str) -> None:
    assert _role(f"u = {function}") is Role.SKEWED


@pytest.mark.parametrize(
    "body",
    [
        pytest.param("s = Sigmoid(c) u = Mul(c, s)", id="swish"),
        pytest.param("q = Mul(c, quick) s = Sigmoid(q) u = Mul(s, c)", id="quick-gelu"),
    ],
)
def test_a_value_times_its_own_gate_is_skewed(body: str) -> None:
    assert _role(body) is Role.SKEWED


@pytest.mark.parametrize(
    "function", ["Tanh(c)", "Softsign(c)", "LeakyRelu<alpha=1.7>(c)", "Clip(c, low, high)", "Neg(c)"]
)
def test_other_functions_are_signed(function: str) -> None:
    assert _role(f"u = {function}") is Role.SIGNED


def test_inputs_and_linear_bottlenecks_are_signed() -> None:
    found = roles(*_model("d = Conv(c, w) u = Add(c, d)"))
    assert found == dict.fromkeys(("x", "c", "d", "u", "y"), Role.SIGNED)


@pytest.mark.parametrize(
    "node",
    [
        pytest.param("GlobalAveragePool(v1)", id="global"),
        pytest.param("AveragePool<kernel_shape=[2,2]>(v1)", id="average"),
        pytest.param("Mul(v1, k)", id="times-positive-numbers"),
        pytest.param("Add(v1, three)", id="raised"),
    ],
)
def test_what_keeps_a_side_small(node: str) -> None:
    assert _role(f"{SWISH} u = {node}") is Role.SKEWED
    assert _role(f"v1 = Relu(c) u = {node}") is Role.NONNEGATIVE
    assert _role(f"v1 = Tanh(c) u = {node}") is Role.SIGNED


@pytest.mark.parametrize("node", ["Mul(v1, l)", "Add(v1, low)", "Sub(v1, three)", "Tanh(v1)"])
def test_what_does_not(node: str) -> None:
    assert _role(f"{SWISH} u = {node}") is Role.SIGNED


def test_moves_and_positive_numbers_between_keep_the_role() -> None:
    moved = "m = MaxPool<kernel_shape=[2,2]>(v1) t = Transpose<perm=[0,1,3,2]>(m) h = Mul(t, three)"
    assert _role(f"{SWISH} {moved} u = AveragePool<kernel_shape=[2,2]>(h)") is Role.SKEWED


@pytest.mark.parametrize(
    ("other", "role"),
    [
        pytest.param("Elu(x)", Role.SKEWED, id="skewed"),
        pytest.param("Relu(x)", Role.SKEWED, id="nonnegative"),
        pytest.param("Conv(x, v)", Role.SIGNED, id="linear"),
    ],
)
@pytest.mark.parametrize("join", ["Add(v1, o)", "Concat<axis=2>(v1, o)", "Concat<axis=2>(o, v1)"])
def test_a_sum_is_signed_with_one_linear_branch(join: str, other: str, role: Role) -> None:
    assert _role(f"{SWISH} o = {other} u = {join}") is role


@pytest.mark.parametrize("product", ["Mul(v1, e)", "Mul(e, v1)"])
def test_squeeze_and_excitation_keeps_the_role(product: str) -> None:
    gate = "g = GlobalAveragePool(v1) q = Conv(g, w) t = Mish(q) r = Conv(t, w) e = Sigmoid(r)"
    found = roles(*_model(f"{SWISH} {gate} u = {product}"))
    assert {name: found[name] for name in ("v1", "g", "t", "r", "e", "u")} == {
        "v1": Role.SKEWED, "g": Role.SKEWED, "t": Role.SKEWED, "r": Role.SIGNED,
        "e": Role.NONNEGATIVE, "u": Role.SKEWED,
    }  # fmt: skip
    assert _role(f"v1 = Identity(c) {gate} u = {product}") is Role.SIGNED


def test_a_product_of_two_skewed_values_is_signed() -> None:
    assert _role(f"{SWISH} e = Elu(x) u = Mul(v1, e)") is Role.SIGNED


def test_a_weighted_mean_keeps_the_role() -> None:
    assert _role(f"{SWISH} a = Softmax<axis=3>(c) u = MatMul(a, v1)") is Role.SKEWED


@pytest.mark.parametrize(
    ("body", "names"),
    [
        pytest.param(f"{SWISH} u = Identity(v1)", {"x", "v1"}, id="layers-only"),
        pytest.param("u = MaxPool<kernel_shape=[2,2]>(c)", {"x", "c"}, id="moved"),
        pytest.param("u = AveragePool<kernel_shape=[2,2]>(c)", {"x"}, id="pooled"),
        pytest.param("d = Conv(c, v) e = Elu(d) u = Add(c, e)", {"x"}, id="added"),
        pytest.param("a = Sub(c, k) d = Conv(a, v) u = Elu(d)", {"x", "a", "u"}, id="of-a-constant"),
    ],
)
def test_foldable_is_what_layers_alone_use(body: str, names: set[str]) -> None:
    assert foldable(*_model(body)) == names


@pytest.mark.parametrize("body", [f"{SWISH} u = Identity(v1)", "d = Conv(c, v) e = Elu(d) u = Add(c, e)"])
def test_foldable_offsets_fit_all_at_once(body: str) -> None:
    model, plan = _model(body)
    names = foldable(model, plan)
    assert names

    def with_offset(number: int, entry: Any) -> Any:
        return entry.model_copy(update={"scale": 0.5, "zero_point": 0, "offset": number / 8})

    planned = [with_offset(i, a) if a.name in names else a for i, a in enumerate(plan.activations, start=1)]
    check_fits(model, plan.replaced(activations=planned))
