from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest
from compare import run_onnx
from graphs import calibrated, normal, residual_cnn
from hypothesis import HealthCheck, given, settings
from strategies import Case, cases

from mpqtool.passes import arithmetic, metadata
from mpqtool.passes.errors import PlanError
from mpqtool.passes.pipelines import quantize
from mpqtool.passes.plan import Grid
from mpqtool.passes.quantize import complete, extract
from mpqtool.passes.values import add_initializer, array, set_array


def _constants(model: ir.Model) -> dict[str, bytes]:
    return {
        str(name): value.const_value.numpy().tobytes() for name, value in model.graph.initializers.items()
    }  # type: ignore[union-attr]


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(cases())
def test_is_the_inverse_of_quantize(case: Case) -> None:
    plan = complete(case.model, case.plan)
    qdq = quantize(case.model, plan)

    real, found = extract(qdq)

    assert found == plan
    assert {node.op_type for node in real.graph}.isdisjoint({"QuantizeLinear", "DequantizeLinear"})
    assert [v.name for v in real.graph.outputs] == [v.name for v in case.model.graph.outputs]
    assert set(real.graph.initializers) == set(case.model.graph.initializers)
    assert _constants(quantize(real, found)) == _constants(qdq)


@pytest.fixture
def qdq(rng: np.random.Generator) -> ir.Model:
    model = residual_cnn(rng)
    feeds = {"x": rng.normal(size=(3, 2, 8, 8)).astype(np.float32)}
    return quantize(model, calibrated(model, feeds, weight_bits=8, activation_bits=8, grid=Grid.SIGNED))


def test_a_file_without_notes_is_read_as_int8(qdq: ir.Model) -> None:
    _, with_notes = extract(qdq)
    for node in qdq.graph:
        node.metadata_props.clear()

    _, without = extract(qdq)

    assert without.weights == tuple(w.model_copy(update={"grid": Grid.FULL}) for w in with_notes.weights)
    assert without.activations == with_notes.activations


def test_the_lowest_code_of_a_file_without_notes_comes_back(qdq: ir.Model) -> None:
    codes = qdq.graph.initializers["w1.codes"]
    set_array(codes, np.where(array(codes) < 0, -128, array(codes)).astype(np.int8))
    for node in qdq.graph:
        node.metadata_props.clear()

    again = quantize(*extract(qdq))

    np.testing.assert_array_equal(array(again.graph.initializers["w1.codes"]), array(codes), strict=True)


def test_quantized_output_keeps_its_name(rng: np.random.Generator) -> None:
    text = "net (float[N, 2, 4, 4] x) => (float[N, 2, 4, 4] y) { y = Conv (x, w) }"
    model = normal(text, {"w": rng.normal(size=(2, 2, 1, 1))})
    feeds = {"x": rng.normal(size=(1, 2, 4, 4)).astype(np.float32)}

    real, plan = extract(quantize(model, calibrated(model, feeds)))

    assert [a.name for a in plan.activations] == ["x", "y"]
    assert set(run_onnx(real, feeds)) == {"y"}


def _remove_notes_and_codes(model: ir.Model, name: str) -> None:
    """Let the users of a dequantized value use the value itself."""
    node = next(n for n in model.graph if n.outputs[0].name == f"{name}.dq")
    value = next(v for n in model.graph for v in n.outputs if v.name == name)
    node.outputs[0].replace_all_uses_with(value)


def test_an_activation_that_is_not_quantized_is_refused(qdq: ir.Model) -> None:
    _remove_notes_and_codes(qdq, "c1")

    with pytest.raises(PlanError, match="activation 'c1' is not quantized"):
        extract(qdq)


def test_signed_activations_are_refused(qdq: ir.Model) -> None:
    set_array(qdq.graph.initializers["r0.zero_point"], np.array(0, np.int8))

    with pytest.raises(PlanError, match=r"'.*' has int8 codes, allowed uint8"):
        extract(qdq)


def test_weights_with_a_zero_point_are_refused(qdq: ir.Model) -> None:
    set_array(qdq.graph.initializers["w1.zero_point"], np.full(8, 3, np.int8))

    with pytest.raises(PlanError, match="'w1' has a zero point other than 0"):
        extract(qdq)


def _scaled_along(axis: int | None, kernels: int, inputs: int) -> ir.Model:
    """A Gemm whose weight is scaled along an axis; None: the attribute is left out, which means 1."""
    rng = np.random.default_rng(0)
    text = f"net (float[N, {inputs}] x) => (float[N, {kernels}] y) {{ y = Gemm <transB = 1> (x, w) }}"
    model = normal(text, {"w": rng.normal(size=(kernels, inputs))})
    feeds = {"x": rng.normal(size=(3, inputs)).astype(np.float32)}
    qdq = quantize(model, calibrated(model, feeds, weight_bits=8, grid=Grid.SIGNED))
    node = next(node for node in qdq.graph if node.outputs[0].name == "w")
    del node.attributes["axis"]
    if axis is not None:
        node.attributes["axis"] = ir.AttrInt64("axis", axis)
    length = (kernels, inputs)[1 if axis is None else axis]
    set_array(qdq.graph.initializers["w.scale"], rng.uniform(0.1, 0.2, length).astype(np.float32))
    set_array(qdq.graph.initializers["w.zero_point"], np.zeros(length, np.int8))
    return qdq


@pytest.mark.parametrize("axis", [1, -1, None])
@pytest.mark.parametrize("kernels", [4, 6])
def test_weights_scaled_along_another_axis_are_refused(axis: int | None, kernels: int) -> None:
    named = 1 if axis is None else axis

    with pytest.raises(PlanError, match=rf"weight 'w' is scaled along axis {named}, allowed 0"):
        extract(_scaled_along(axis, kernels, 6))


@pytest.mark.parametrize("axis", [0, -2])
def test_weights_scaled_along_kernels_are_read(axis: int) -> None:
    qdq = _scaled_along(axis, 4, 6)
    feeds = {"x": np.ones((1, 6), np.float32)}

    real, plan = extract(qdq)

    assert plan.weights[0].scale == tuple(float(s) for s in array(qdq.graph.initializers["w.scale"]))
    (held,) = run_onnx(qdq, feeds, expose=["w"]).keys() - {"y"}
    np.testing.assert_array_equal(
        array(real.graph.initializers["w"]), run_onnx(qdq, feeds, expose=["w"])[held]
    )


def test_other_constants_are_read_along_their_axis(qdq: ir.Model) -> None:
    """What is no weight may be quantized in any way that ONNX knows."""
    graph, rng = qdq.graph, np.random.default_rng(0)
    codes = rng.integers(-128, 128, (5, 3)).astype(np.int8)
    scale, zero = rng.uniform(0.1, 1, 3).astype(np.float32), np.array([1, -2, 3], np.int8)
    inputs = [add_initializer(graph, f"k{i}", numbers) for i, numbers in enumerate((codes, scale, zero))]
    nodes = [ir.node("DequantizeLinear", inputs, {"axis": 1}, name="k")]
    nodes.append(ir.node("MatMul", [graph.outputs[0], nodes[0].outputs[0]], name="m"))
    nodes[0].outputs[0].name, nodes[1].outputs[0].name = "k", "z"
    graph.extend(nodes)
    graph.outputs[0] = nodes[1].outputs[0]

    real, _ = extract(qdq)

    expected = (codes.astype(np.float32) - zero.astype(np.float32)) * scale
    np.testing.assert_array_equal(array(real.graph.initializers["k"]), expected)


@pytest.mark.parametrize("name", ["w1", "r0"])
@pytest.mark.parametrize("number", [-1.0, 0.0, np.nan])
def test_scales_that_no_plan_can_hold_are_refused(qdq: ir.Model, name: str, number: float) -> None:
    scale = np.array(array(qdq.graph.initializers[f"{name}.scale"]))
    scale.reshape(-1)[0] = number
    set_array(qdq.graph.initializers[f"{name}.scale"], scale)

    with pytest.raises(PlanError, match=rf"Cannot read the QDQ file: '{name}': scale.*finite|greater than 0"):
        extract(qdq)


def test_ties_in_an_older_file_are_not_read(qdq: ir.Model) -> None:
    expected = extract(qdq)[1]
    for node in qdq.graph:
        if node.metadata_props.get(metadata.NAME) in ("c1", "r1"):
            node.metadata_props["mpqtool.tie"] = "c1"

    assert extract(qdq)[1] == expected


def test_large_biases_come_back_to_the_same_codes(rng: np.random.Generator) -> None:
    """Beyond 2**24 floats lie further apart than codes."""
    unit = rng.uniform(1e-9, 1e-3, 2000).astype(np.float32)
    codes = arithmetic.quantize_bias(unit * rng.uniform(2**23, 2**30, 2000), 1, unit)

    real = arithmetic.dequantize(codes, unit)

    np.testing.assert_array_equal(arithmetic.quantize_bias(real, 1, unit), codes)


def test_the_file_itself_is_left_as_it_is(qdq: ir.Model) -> None:
    before = ir.to_proto(qdq).SerializeToString(deterministic=True)

    extract(qdq)

    assert ir.to_proto(qdq).SerializeToString(deterministic=True) == before
    assert any(metadata.NAME in node.metadata_props for node in qdq.graph)
