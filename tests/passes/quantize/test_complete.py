from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest
from graphs import calibrated, normal, residual_cnn

from mpqtool.passes import arithmetic
from mpqtool.passes.errors import PlanError
from mpqtool.passes.pipelines import quantize
from mpqtool.passes.plan import Grid, Plan
from mpqtool.passes.quantize import complete, raise_dead_scales
from mpqtool.passes.values import array, set_array


@pytest.fixture
def model(rng: np.random.Generator) -> ir.Model:
    return residual_cnn(rng)


@pytest.fixture
def plan(model: ir.Model, rng: np.random.Generator) -> Plan:
    return calibrated(model, {"x": rng.normal(size=(3, 2, 8, 8)).astype(np.float32)})


def test_open_weight_scales_are_fitted(model: ir.Model, plan: Plan) -> None:
    full = complete(model, plan)

    assert full.is_complete
    for entry in full.weights:
        weight = array(model.graph.initializers[entry.name])
        assert weight is not None
        expected = arithmetic.fit_weight_scale(weight, entry.bits, entry.grid)
        np.testing.assert_array_equal(np.float32(entry.scale), expected)


def test_given_scales_are_kept(model: ir.Model, plan: Plan) -> None:
    full = complete(model, plan)

    assert complete(model, full) == full


def _without_weight(plan: Plan) -> Plan:
    return plan.replaced(weights=plan.weights[1:])


def _without_activation(plan: Plan) -> Plan:
    return plan.replaced(activations=plan.activations[:-1])


def _other_weight(plan: Plan) -> Plan:
    return plan.replaced(weights=[plan.weights[0].model_copy(update={"name": "w9"}), *plan.weights[1:]])


def _other_activation(plan: Plan) -> Plan:
    return plan.replaced(
        activations=[*plan.activations, plan.activations[0].model_copy(update={"name": "q"})]
    )


def _other_kernels(plan: Plan) -> Plan:
    return plan.replaced(weights=[plan.weights[0].model_copy(update={"bits": (4, 4)}), *plan.weights[1:]])


def _open_activation(plan: Plan) -> Plan:
    return plan.replaced(
        activations=[plan.activations[0].model_copy(update={"scale": None}), *plan.activations[1:]]
    )


def _open_zero_point(plan: Plan) -> Plan:
    first = plan.activations[0].model_copy(update={"zero_point": None})
    return plan.replaced(activations=[first, *plan.activations[1:]])


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (_without_weight, r"weight 'w0' is missing, found 'w1', 'w2', 'w3'\. Add it"),
        (_other_weight, r"found weight 'w9', allowed 'w0', 'w1', 'w2', 'w3'\. Remove it"),
        (_without_activation, r"activation 'g' is missing, found 'x', 'r0'"),
        (_other_activation, r"found activation 'q', allowed 'x', 'r0'"),
        (_other_kernels, r"weight 'w0' has bits for 2 kernels, allowed 4\. Give one width per kernel"),
        (_open_activation, r"activation 'x' has no scale, found null, allowed a number"),
        (_open_zero_point, r"activation 'x' has no zero_point, found null"),
    ],
)
def test_a_plan_that_does_not_fit_is_refused_in_one_line(
    model: ir.Model, plan: Plan, spoil: object, message: str
) -> None:
    assert callable(spoil)

    with pytest.raises(PlanError, match=message) as caught:
        quantize(model, spoil(plan))
    assert "\n" not in str(caught.value)


def test_a_dead_kernel_does_not_make_its_bias_overflow(rng: np.random.Generator) -> None:
    text = "net (float[N, 2, 4, 4] x) => (float[N, 3, 4, 4] y) { y = Conv (x, w, b) }"
    weight = rng.normal(size=(3, 2, 1, 1)).astype(np.float32)
    weight[1] *= 1e-12
    model = normal(text, {"w": weight, "b": np.array([0.1, 50.0, 0.1])})
    feeds = {"x": rng.normal(size=(1, 2, 4, 4)).astype(np.float32)}

    full = complete(model, calibrated(model, feeds))

    x, w = full.activation("x"), full.weight("w")
    assert x is not None
    assert w is not None
    codes = arithmetic.quantize_bias([0.1, 50.0, 0.1], x.scale, w.scale)
    assert np.abs(codes).max() <= 2**30
    bias = arithmetic.dequantize(codes, np.float32(x.scale) * np.float32(w.scale))
    np.testing.assert_allclose(bias[1], 50, rtol=1e-6, atol=0)  # 2**30 steps: what float32 loses of it


@pytest.mark.parametrize("given", [1.0, 300.0, 1e-9])
def test_kernels_without_bits_keep_their_biases(given: float, rng: np.random.Generator) -> None:
    """What a kernel of 0 bits gives is its bias; a scale of no weights must not round it away."""
    model = residual_cnn(rng)
    plan = calibrated(model, {"x": rng.normal(size=(3, 2, 8, 8)).astype(np.float32)})
    first = plan.weights[0]
    node = next(node for node in model.graph if node.inputs[1].name == first.name)
    bias = array(node.inputs[2])
    x = plan.activation(str(node.inputs[0].name))
    assert bias is not None
    assert x is not None
    empty = first.model_copy(update={"bits": (0,) * len(first.bits), "scale": (given,) * len(first.bits)})
    made = raise_dead_scales(model, plan.replaced(weights=[empty, *plan.weights[1:]])).weights[0]
    unit = np.float64(x.scale or 0) * np.asarray(made.scale)
    np.testing.assert_allclose(np.rint(bias / unit) * unit, bias, rtol=2**-15)


def test_the_lowest_code_counts_with_its_magnitude() -> None:
    text = "net (float[N, 60, 4, 4] x) => (float[N, 1, 4, 4] y) { y = Conv <pads = [1, 1, 1, 1]> (x, w) }"
    model = normal(text, {"w": np.resize([-1.0, 1.0], (1, 60, 3, 3))})
    plan = calibrated(model, {"x": np.ones((1, 60, 4, 4), np.float32)}, weight_bits=8, grid=Grid.FULL)
    w = plan.weights[0].model_copy(update={"scale": (1 / 128,)})  # codes -128 and 127
    x, y = plan.activations
    far = x.model_copy(update={"offset": 2.0**15 * x.scale, "padding": "zero"})

    assert 2**15 * 270 * (128 + 127) > 2**31
    with pytest.raises(PlanError, match=r"the accumulator of .* can reach 2\d{9}, allowed 2147483647"):
        complete(model, plan.replaced(weights=[w], activations=[far, y]))


def test_a_given_scale_that_overflows_is_refused(model: ir.Model, plan: Plan) -> None:
    full = complete(model, plan)
    bias = model.graph.initializers["b1"]
    set_array(bias, np.full(8, 1e3, np.float32))
    w1 = full.weight("w1")
    assert w1 is not None
    tiny = w1.model_copy(update={"scale": tuple([1e-12] * 8)})
    spoiled = full.replaced(weights=[tiny if w.name == "w1" else w for w in full.weights])

    with pytest.raises(
        PlanError, match=r"the accumulator of '.*' can reach \d+, allowed 2147483647.*'w1' to "
    ):
        complete(model, spoiled)
