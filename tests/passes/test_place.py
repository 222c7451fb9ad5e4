from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir
import pytest
from onnx_text import parse

from mpqtool.passes.pipelines import normalize
from mpqtool.passes.place import entries, free_values, owners, place
from mpqtool.passes.plan import Grid, Plan

_CONV = np.ones((2, 2, 1, 1))


def _place(
    body: str, *, outputs: str = "float[n,2,a,b] y", opset: int = 21, **weights: Any
) -> tuple[ir.Model, Plan]:
    """Place on ``x``, two channels of 6x6; ``w``, ``v`` of 1x1 convolutions, ``fc``, ``fd`` of Gemm."""
    text = f"net (float[n,2,6,6] x) => ({outputs}) {{ {body} }}"
    matrices = {"fc": np.ones((2, 2)), "fd": np.ones((2, 2))}
    used = {"w": _CONV, "v": _CONV * 2, **matrices, **weights}
    model = normalize(
        parse(text, {k: v for k, v in used.items() if k in body}, opset=opset), fold_batch_norm=True
    )
    return model, place(model, weight_bits=4, activation_bits=6, grid=Grid.ODD)


def _names(plan: Plan) -> list[str]:
    return [entry.name for entry in plan.activations]


def test_a_relu_belongs_to_the_layer_before_it() -> None:
    _, plan = _place("c = Conv(x, w) r = Relu(c) y = Conv(r, v)")
    assert [(a.name, a.bits, a.zero_point) for a in plan.activations] == [
        ("x", 8, None),
        ("r", 6, 0),
        ("y", 8, None),  # no layer multiplies it
    ]
    assert [(w.name, w.bits, w.grid) for w in plan.weights] == [
        ("w", (4, 4), Grid.ODD),
        ("v", (4, 4), Grid.ODD),
    ]
    assert not plan.is_complete


def test_a_clip_behind_a_relu_belongs_too() -> None:
    model, plan = _place(
        "c = Conv(x, w) r = Relu(c) k = Clip(r, low, high) y = Conv(k, v)", low=0.0, high=6.0
    )
    assert _names(plan) == ["x", "k", "y"]
    assert owners(model, plan).keys() == {"x", "k", "y"}


@pytest.mark.parametrize(
    ("low", "zero_point"), [pytest.param(0.0, 0, id="relu6"), pytest.param(-1.0, None, id="hard-tanh")]
)
def test_zero_is_the_zero_point_where_nothing_is_negative(low: float, zero_point: int | None) -> None:
    _, plan = _place("c = Conv(x, w) k = Clip(c, low, high) y = Conv(k, v)", low=low, high=6.0)
    assert plan.activation("k").zero_point == zero_point


def test_operators_that_move_codes_share_the_scale() -> None:
    model, plan = _place(
        "c = Conv(x, w) r = Relu(c) m = MaxPool<kernel_shape=[6,6]>(r) f = Flatten(m) "
        "y = Gemm<transB=1>(f, fc)",
        outputs="float[n,2] y",
    )
    assert _names(plan) == ["x", "r"]
    assert owners(model, plan) == {"x": "x", "r": "r", "m": "r", "f": "r"}


def test_a_relu_with_a_partner_stands_alone() -> None:
    # The Conv feeds the Relu and the Add: its own output is what is quantized, and it can be negative.
    model, plan = _place("c = Conv(x, w) r = Relu(c) d = Conv(r, v) y = Add(c, d)")
    assert _names(plan) == ["x", "c", "d", "y"]
    assert plan.activation("c").zero_point is None
    assert owners(model, plan)["r"] == "c"


def test_the_last_gemm_stays_float() -> None:
    _, plan = _place(
        "g = GlobalAveragePool(x) f = Flatten(g) l = Gemm<transB=1>(f, fc) y = Softmax(l)",
        outputs="float[n,2] y",
    )
    assert _names(plan) == ["x", "g"]


def test_a_gemm_between_layers_is_quantized() -> None:
    _, plan = _place(
        "f = Flatten(x) l = Gemm<transB=1>(f, fc) r = Relu(l) y = Gemm<transB=1>(r, fd)",
        outputs="float[n,2] y",
        fc=np.ones((2, 72)),
    )
    assert [(a.name, a.zero_point) for a in plan.activations] == [("x", None), ("r", 0)]


def test_a_conv_that_is_an_output_is_quantized() -> None:
    _, plan = _place("y = Conv(x, w)")
    assert _names(plan) == ["x", "y"]


def test_both_operands_and_the_result_of_a_sum_are_quantized() -> None:
    _, plan = _place("a = Conv(x, w) m = MaxPool<kernel_shape=[1,1]>(a) b = Conv(x, v) y = Add(b, m)")
    assert _names(plan) == ["x", "a", "b", "y"]


def test_pools_and_concat() -> None:
    _, plan = _place(
        "c = Conv(x, w) r = Relu(c) p = AveragePool<kernel_shape=[2,2]>(r) "
        "q = AveragePool<kernel_shape=[2,2]>(c) y = Concat<axis=1>(p, q)",
        outputs="float[n,4,a,b] y",
    )
    assert {a.name: a.zero_point for a in plan.activations} == {
        "x": None, "c": None, "p": 0, "q": None, "y": None,
    }  # fmt: skip


def test_a_relu_behind_a_pool_stands_alone() -> None:
    model, plan = _place("p = AveragePool<kernel_shape=[2,2]>(x) r = Relu(p) y = Conv(r, w)")
    assert [(a.name, a.zero_point) for a in plan.activations] == [("x", None), ("p", None), ("y", None)]
    assert owners(model, plan)["r"] == "p"


def test_a_shared_weight_is_listed_once() -> None:
    _, plan = _place("c = Conv(x, w) y = Conv(c, w)")
    assert [entry.name for entry in plan.weights] == ["w"]


def test_values_on_both_sides_of_a_float_operator_are_quantized() -> None:
    _, plan = _place("c = Conv(x, w) s = Sigmoid(c) p = Mul(c, s) y = Conv(p, v)")
    assert _names(plan) == ["x", "c", "p", "y"]


def test_a_relu_behind_an_island_is_part_of_it() -> None:
    # Pre-activation: quantizing behind the Relu leaves all codes to what passes it.
    _, plan = _place("b = BatchNormalization(x, g, g, g, g) r = Relu(b) y = Conv(r, w)", g=np.ones(2))
    assert [(a.name, a.zero_point) for a in plan.activations] == [("r", 0), ("y", None)]


@pytest.mark.parametrize(
    ("gemm", "names"),
    [
        pytest.param("Gemm<transB=1>(f, fc, c)", ["x"], id="canonical"),
        pytest.param("Gemm(f, fc, c)", [], id="weight-not-transposed"),
        pytest.param("Gemm<transB=1, alpha=0.5>(f, fc, c)", [], id="alpha"),
        pytest.param("Gemm<transB=1, beta=0.5>(f, fc, c)", [], id="beta"),
        pytest.param("Gemm<transA=1, transB=1>(f, fc, c)", [], id="input-transposed"),
    ],
)
def test_a_gemm_of_another_form_is_not_quantized(gemm: str, names: list[str]) -> None:
    text = f"net (float[2,2] x, float[2] c) => (float[2,2] y) {{ f = Identity(x) y = {gemm} }}"
    plan = place(parse(text, {"fc": np.ones((2, 2))}), weight_bits=4, activation_bits=6, grid=Grid.ODD)
    assert _names(plan) == names
    assert [entry.name for entry in plan.weights] == ["fc"] * len(names)


def test_arithmetic_on_shapes_is_nobodys_business() -> None:
    model, plan = _place(
        "c = Conv(x, w) s = Shape(c) t = Add(s, z) u = Sub(t, z) y = Reshape(c, u)", z=np.zeros(4, np.int64)
    )
    assert _names(plan) == ["x", "c"]
    assert owners(model, plan) == {"x": "x", "c": "c", "y": "c"}


def test_integer_inputs_are_left_alone() -> None:
    text = (
        "net (float[n,2,6,6] x, int64[1] k) => (float[n,2,6,6] y, int64[1] z) "
        "{ y = Conv(x, w) z = Add(k, k) }"
    )
    model = normalize(parse(text, {"w": _CONV}))
    plan = place(model, weight_bits=4, activation_bits=6, grid=Grid.ODD)
    assert _names(plan) == ["x", "y"]


def test_placing_changes_nothing() -> None:
    model, _ = _place("c = Conv(x, w) r = Relu(c) y = Conv(r, v)")
    before = ir.to_proto(model)
    plan = place(model, weight_bits=2, activation_bits=3, grid=Grid.SIGNED)
    owners(model, plan)
    assert ir.to_proto(model) == before


def test_only_what_a_layer_multiplies_has_the_width_that_was_asked_for() -> None:
    model, plan = _place("c = Conv(x, w) d = Conv(x, v) a = Add(c, d) r = Relu(a) y = Conv(r, w)")
    assert [(entry.name, entry.bits) for entry in plan.activations] == [
        ("x", 8), ("c", 8), ("d", 8), ("r", 6), ("y", 8),
    ]  # fmt: skip
    assert free_values(model) == {"c", "d", "y"}


def test_both_sides_of_a_gate_and_its_function_are_quantized() -> None:
    _, plan = _place("c = Conv(x, w) s = Sigmoid(c) m = Mul(x, s) y = Conv(m, v)")
    assert [(entry.name, entry.bits) for entry in plan.activations] == [
        ("x", 8), ("c", 8), ("s", 8), ("m", 6), ("y", 8),
    ]  # fmt: skip


def test_what_shapes_the_result_of_the_network_stays_float() -> None:
    _, plan = _place("c = Conv(x, w) s = Softmax <axis = 1> (c) y = Mul(s, s)")
    assert _names(plan) == ["x", "c"]


@pytest.mark.parametrize("node", ["Mul(r, k)", "Mul(k, r)", "Div(r, k)"])
def test_a_positive_number_goes_into_the_scale(node: str) -> None:
    model, plan = _place(f"c = Conv(x, w) r = Relu(c) m = {node} t = Relu(m) y = Conv(t, v)", k=4.0)
    assert [(a.name, a.zero_point) for a in plan.activations] == [("x", None), ("r", 0), ("y", None)]
    assert owners(model, plan) == {"x": "x", "r": "r", "m": "r", "t": "r", "y": "y"}
    known = plan.replaced(activations=[a.model_copy(update={"scale": 0.5}) for a in plan.activations])
    scales = {name: entry.scale for name, entry in entries(model, known).items()}
    scaled = 0.125 if "Div" in node else 2.0
    assert scales == {"x": 0.5, "r": 0.5, "m": scaled, "t": scaled, "y": 0.5}


@pytest.mark.parametrize("k", [-4.0, 0.0, np.ones((1, 2, 1, 1))])
def test_what_is_multiplied_by_another_constant_has_its_own_scale(k: Any) -> None:
    _, plan = _place("c = Conv(x, w) r = Relu(c) m = Mul(r, k) y = Conv(m, v)", k=k)
    assert _names(plan) == ["x", "r", "m", "y"]


def test_a_sum_with_a_constant_is_quantized_where_a_layer_wants_it() -> None:
    _, plan = _place("c = Conv(x, w) r = Relu(c) s = Add(r, k) t = Relu(s) y = Conv(t, v)", k=np.ones((6, 6)))
    assert _names(plan) == ["x", "r", "t", "y"]


def test_a_sum_with_a_constant_that_no_layer_uses_stays_float() -> None:
    _, plan = _place("c = Conv(x, w) r = Relu(c) y = Add(r, k)", k=np.ones((6, 6)))
    assert _names(plan) == ["x", "r"]
