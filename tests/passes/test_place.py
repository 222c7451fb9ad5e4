from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir
import pytest
from onnx_text import parse

from mpqtool.passes.pipelines import normalize
from mpqtool.passes.place import islands, owners, place
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
        ("y", 6, None),
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
    assert islands(model, plan) == []


def test_the_last_gemm_stays_float() -> None:
    model, plan = _place(
        "g = GlobalAveragePool(x) f = Flatten(g) l = Gemm<transB=1>(f, fc) y = Softmax(l)",
        outputs="float[n,2] y",
    )
    assert _names(plan) == ["x", "g"]
    assert [(i.op, i.reason) for i in islands(model, plan)] == [
        ("Softmax", "Softmax has no integer form here")
    ]


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


def test_a_stage_of_residual_blocks_is_one_tie() -> None:
    _, plan = _place(
        "a = Conv(x, w) r = Relu(a) c = Conv(r, w2) s = Add(c, r) t = Relu(s) "
        "d = Conv(t, w3) u = Add(d, t) z = Relu(u) e = Conv(z, w4) y = Relu(e)",
        w2=_CONV,
        w3=_CONV,
        w4=_CONV,
    )
    ties = {a.name: a.tie for a in plan.activations}
    assert ties == {"x": None, "r": "r", "c": "r", "t": "r", "d": "r", "z": "r", "y": None}


def test_two_branches_meet_in_one_tie_named_after_the_first() -> None:
    _, plan = _place("a = Conv(x, w) m = MaxPool<kernel_shape=[1,1]>(a) b = Conv(x, v) y = Add(b, m)")
    assert {a.name: a.tie for a in plan.activations} == {"x": None, "a": "a", "b": "a", "y": "a"}


def test_pools_and_concat() -> None:
    model, plan = _place(
        "c = Conv(x, w) r = Relu(c) p = AveragePool<kernel_shape=[2,2]>(r) "
        "q = AveragePool<kernel_shape=[2,2]>(c) y = Concat<axis=1>(p, q)",
        outputs="float[n,4,a,b] y",
    )
    assert {a.name: a.zero_point for a in plan.activations} == {
        "x": None, "c": None, "p": 0, "q": None, "y": None,
    }  # fmt: skip
    assert {a.tie for a in plan.activations} == {None}
    assert islands(model, plan) == []


def test_a_relu_behind_a_pool_stands_alone() -> None:
    model, plan = _place("p = AveragePool<kernel_shape=[2,2]>(x) r = Relu(p) y = Conv(r, w)")
    assert [(a.name, a.zero_point) for a in plan.activations] == [("x", None), ("p", None), ("y", None)]
    assert owners(model, plan)["r"] == "p"


def test_a_shared_weight_is_listed_once() -> None:
    _, plan = _place("c = Conv(x, w) y = Conv(c, w)")
    assert [entry.name for entry in plan.weights] == ["w"]


def test_a_float_operator_between_layers_is_an_island() -> None:
    model, plan = _place("c = Conv(x, w) s = Sigmoid(c) p = Mul(c, s) y = Conv(p, v)")
    assert _names(plan) == ["x", "c", "p", "y"]
    assert [(island.name, island.op) for island in islands(model, plan)] == [
        ("Sigmoid", "Sigmoid"),
        ("Mul", "Mul"),
    ]


def test_a_relu_behind_an_island_is_part_of_it() -> None:
    # Pre-activation: quantizing behind the Relu leaves all codes to what passes it.
    model, plan = _place("b = BatchNormalization(x, g, g, g, g) r = Relu(b) y = Conv(r, w)", g=np.ones(2))
    assert [(a.name, a.zero_point) for a in plan.activations] == [("r", 0), ("y", None)]
    assert [(i.op, i.reason) for i in islands(model, plan)] == [
        ("BatchNormalization", "no Conv or Gemm before it can take it in"),
        ("Relu", "its input is float"),
    ]


@pytest.mark.parametrize(
    ("body", "op", "reason"),
    [
        pytest.param(
            "c = Conv(x, w) p = AveragePool<kernel_shape=[3,3], pads=[1,1,1,1]>(c) y = Conv(p, v)",
            "AveragePool",
            "its padding is not counted, so the divisor differs from place to place",
            id="uncounted-padding",
        ),
        pytest.param(
            "c = Conv(x, w) s = Sigmoid(c) a = Add(s, c2) y = Conv(a, v)",
            "Add",
            "one operand is a constant",
            id="constant-operand",
        ),
        pytest.param(
            "c = Conv(x, w) y = Conv(x, c)", "Conv", "its weight is not a constant", id="computed-weight"
        ),
    ],
)
def test_says_why_an_operator_stays_float(body: str, op: str, reason: str) -> None:
    weights = {"c2": np.ones((1, 2, 1, 1))} if "c2" in body else {}
    model, plan = _place(body, **weights)
    assert (op, reason) in [(island.op, island.reason) for island in islands(model, plan)]


def test_counted_padding_is_no_reason() -> None:
    model, plan = _place(
        "c = Conv(x, w) p = AveragePool<kernel_shape=[3,3], pads=[1,1,1,1], count_include_pad=1>(c) "
        "y = Conv(p, v)"
    )
    assert islands(model, plan) == []


def test_arithmetic_on_shapes_is_nobodys_business() -> None:
    model, plan = _place(
        "c = Conv(x, w) s = Shape(c) t = Add(s, z) u = Sub(t, z) y = Reshape(c, u)", z=np.zeros(4, np.int64)
    )
    assert _names(plan) == ["x", "c"]
    assert owners(model, plan) == {"x": "x", "c": "c", "y": "c"}
    assert islands(model, plan) == []


def test_integer_inputs_are_left_alone() -> None:
    text = (
        "net (float[n,2,6,6] x, int64[1] k) => (float[n,2,6,6] y, int64[1] z) "
        "{ y = Conv(x, w) z = Add(k, k) }"
    )
    model = normalize(parse(text, {"w": _CONV}))
    plan = place(model, weight_bits=4, activation_bits=6, grid=Grid.ODD)
    assert _names(plan) == ["x", "y"]
    assert islands(model, plan) == []


def test_placing_changes_nothing() -> None:
    model, _ = _place("c = Conv(x, w) r = Relu(c) y = Conv(r, v)")
    before = ir.to_proto(model)
    plan = place(model, weight_bits=2, activation_bits=3, grid=Grid.SIGNED)
    owners(model, plan)
    islands(model, plan)
    assert ir.to_proto(model) == before
