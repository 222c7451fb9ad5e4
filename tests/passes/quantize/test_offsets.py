from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir
import pytest
from compare import run_onnx
from graphs import calibrated, normal
from hypothesis import HealthCheck, given, settings
from offset_cases import OffsetCase, offset_cases
from onnx_text import ops

from mpqtool.passes import arithmetic, metadata
from mpqtool.passes.errors import PlanError
from mpqtool.passes.pipelines import quantize
from mpqtool.passes.plan import Plan
from mpqtool.passes.quantize import check_fits, complete, extract, snap
from mpqtool.passes.values import array

SHAPES = {"w0": (2, 2, 3, 3), "w1": (2, 2, 1, 1), "wy": (3, 2), "wf": (3, 72)}


def _model(body: str) -> ir.Model:
    rng = np.random.default_rng(0)
    text = f"""
        net (float[N, 2, 6, 6] x) => (float[N, 3] y) {{
            v = Conv <pads = [1, 1, 1, 1]> (x, w0)
            {body}
        }}
    """
    return normal(text, {name: rng.normal(size=shape) for name, shape in SHAPES.items() if name in text})


GEMM = "f = Flatten (u) y = Gemm <transB = 1> (f, wf)"
POOLED = "g = GlobalAveragePool (v) f = Flatten (g) y = Gemm <transB = 1> (f, wy)"


def _plan(model: ir.Model, padding: Any = "offset", **offsets: float) -> Plan:
    feeds = {"x": np.random.default_rng(1).normal(size=(2, 2, 6, 6)).astype(np.float32)}
    plan = calibrated(model, feeds)
    return plan.replaced(
        activations=[
            a.model_copy(update={"offset": offsets.get(a.name, 0.0), "padding": padding})
            for a in plan.activations
        ]
    )


def test_a_sum_with_a_constant_may_have_any_offset() -> None:
    model = normal(
        "net (float[N, 2, 6, 6] x) => (float[N, 2, 6, 6] y) { v = Conv (x, w1) u = Sub (v, c) "
        "y = Conv (u, w1) }",
        {"w1": np.ones((2, 2, 1, 1)), "c": np.ones((2, 1, 1))},
    )

    check_fits(model, _plan(model, u=0.123))


@pytest.mark.parametrize(
    "body",
    [
        pytest.param("u = Conv <pads = [2, 0, 0, 2]> (v, w0)" + GEMM, id="conv"),
        pytest.param("u = Identity (v)" + GEMM, id="gemm"),
        pytest.param(
            "p = MaxPool <kernel_shape = [3, 3], pads = [1, 1, 1, 1]> (v) u = Conv (p, w1)" + GEMM, id="moved"
        ),
    ],
)
@pytest.mark.parametrize("padding", ["offset", "zero"])
def test_layers_take_any_offset(body: str, padding: str) -> None:
    model = _model(body)

    check_fits(model, _plan(model, padding, v=0.123, x=-0.2))


@pytest.mark.parametrize(
    ("body", "padding", "offsets", "fault"),
    [
        pytest.param("u = Add (v, x)" + GEMM, "offset", {"v": 0.1}, "Add .* uses it", id="add"),
        pytest.param("s = Sigmoid (v) u = Mul (s, v)" + GEMM, "offset", {"v": 0.1}, "uses it", id="function"),
        pytest.param("m = MaxPool <kernel_shape = [1, 1]> (v) u = Relu (m)" + GEMM, "offset", {"v": 0.1},
                     "Relu .* uses it", id="bound"),
        pytest.param("u = Concat <axis = 1> (v, x) g = GlobalAveragePool (u) f = Flatten (g) "
                     "y = Gemm <transB = 1> (f, wx)", "offset", {"v": 0.1}, "Concat .* uses it", id="concat"),
        pytest.param(POOLED, "offset", {"v": 0.1}, "joins it to 'g', with the offset 0;", id="pool-without"),
        pytest.param(POOLED, "offset", {"g": 0.1}, "joins it to 'v', with the offset 0;", id="pool-with"),
        pytest.param("u = AveragePool <kernel_shape = [3, 3], pads = [1, 1, 1, 1], count_include_pad = 1> (v)"
                     + GEMM, "zero", {"v": 0.1, "u": 0.1}, "pads it with zeros", id="padded-pool"),
        pytest.param("u = Add (v, x)" + GEMM, "offset", {"u": 0.1}, "Add .* makes it", id="sum"),
        pytest.param("s = Sub (v, x) u = Relu (s)" + GEMM, "zero", {"u": 0.1}, "Sub .* makes it", id="sub"),
        pytest.param("u = MatMul (v, x)" + GEMM, "offset", {"u": 0.1}, "MatMul .* makes it", id="product"),
        pytest.param("p = Pad (v, sides) m = MaxPool <kernel_shape = [3, 3]> (p) u = Conv (m, w1)" + GEMM,
                     "zero", {"v": 0.1}, "Pad .* pads it with zeros", id="pad"),
    ],
)  # fmt: skip
def test_what_needs_the_real_value_is_refused_until_it_is_snapped(
    body: str, padding: str, offsets: dict[str, float], fault: str
) -> None:
    rng = np.random.default_rng(0)
    text = f"net (float[N, 2, 6, 6] x) => (float[N, 3] y) {{ v = Conv <pads = [1, 1, 1, 1]> (x, w0) {body} }}"
    weights: dict[str, Any] = {
        n: rng.normal(size=s) for n, s in {**SHAPES, "wx": (3, 4)}.items() if n in text
    }
    if "sides" in text:
        weights["sides"] = np.array([0, 0, 1, 1, 0, 0, 1, 1])
    model = normal(text, weights)
    plan = _plan(model, padding, **offsets)

    with pytest.raises(PlanError, match=rf"offset [-\d.]+, but .*{fault}.*Snap it") as caught:
        complete(model, plan)

    assert "\n" not in str(caught.value)
    snapped = snap(model, plan)
    assert not any(a.offset for a in snapped.activations)
    complete(model, snapped)


def test_an_output_of_the_model_is_refused() -> None:
    model = normal(
        "net (float[N, 2, 6, 6] x) => (float[N, 2, 6, 6] y) { y = Conv (x, w1) }",
        {"w1": np.ones((2, 2, 1, 1))},
    )

    with pytest.raises(PlanError, match="'y' is an output of the model"):
        complete(model, _plan(model, y=0.1))


def test_snapping_leaves_alone_what_can_be_folded() -> None:
    model = _model("u = Conv (v, w1) a = Add (u, x) f = Flatten (a) y = Gemm <transB = 1> (f, wf)")
    plan = _plan(model, v=0.123, u=0.456)

    snapped = snap(model, plan)

    assert {a.name: a.offset for a in snapped.activations if a.offset} == {"v": 0.123}
    assert snap(model, snapped) == snapped


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(offset_cases())
def test_extract_finds_the_plan_and_the_codes_again(case: OffsetCase) -> None:
    qdq = quantize(case.model, case.plan)

    real, found = extract(qdq)

    assert found == case.plan
    assert set(real.graph.initializers) == set(case.model.graph.initializers)
    assert {"Sub", "Add", "QuantizeLinear"}.isdisjoint(ops(real))
    held = [
        {str(n): v.const_value.numpy().tobytes() for n, v in m.graph.initializers.items()}  # type: ignore[union-attr]
        for m in (qdq, quantize(real, found))
    ]
    assert held[0] == held[1]


def test_the_file_subtracts_once_and_adds_in_front_of_zeros_alone() -> None:
    model = _model(
        "p = MaxPool <kernel_shape = [1, 1]> (v) u = Conv <pads = [1, 1, 1, 1]> (p, w0) c = Conv (p, w1) "
        "a = Add (u, c) f = Flatten (a) y = Gemm <transB = 1> (f, wf)"
    )

    folded, mapped = (quantize(model, _plan(model, padding, v=0.1)) for padding in ("offset", "zero"))

    for qdq, added in ((folded, 0), (mapped, 1)):
        shifts = [node.op_type for node in qdq.graph if metadata.EXACT in node.metadata_props]
        assert shifts == ["Sub", *["Add"] * added]
    biases = {name for name in mapped.graph.initializers if name.endswith(".bias.codes")}
    assert biases == {"c.bias.codes"}  # one without padding is the same in both
    feeds = {"x": np.random.default_rng(1).normal(size=(2, 2, 6, 6)).astype(np.float32)}
    seen = run_onnx(folded, feeds, expose=["v", "v.codes"])
    scale, zero = (array(folded.graph.initializers[f"v.{key}"]) for key in ("scale", "zero_point"))
    assert scale is not None
    assert zero is not None
    expected = arithmetic.quantize(seen["v"], scale, int(zero), 0, 255, offset=0.1)
    np.testing.assert_array_equal(seen["v.codes"], expected)
