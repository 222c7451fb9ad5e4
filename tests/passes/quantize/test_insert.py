from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest
from compare import assert_equivalent, run_onnx
from graphs import calibrated, normal, residual_cnn
from onnx_text import ops

from mpqtool.passes import arithmetic, metadata
from mpqtool.passes.plan import Grid, Plan
from mpqtool.passes.quantize import InsertQdqPass, complete
from mpqtool.passes.values import array


@pytest.fixture
def model(rng: np.random.Generator) -> ir.Model:
    return residual_cnn(rng)


@pytest.fixture
def feeds(rng: np.random.Generator) -> dict[str, np.ndarray]:
    return {"x": rng.normal(size=(3, 2, 8, 8)).astype(np.float32)}


@pytest.fixture
def plan(model: ir.Model, feeds: dict[str, np.ndarray]) -> Plan:
    return complete(model, calibrated(model, feeds, weight_bits=4, activation_bits=6))


def test_every_quantized_operator_stands_between_dq_and_q(model: ir.Model, plan: Plan) -> None:
    result = InsertQdqPass(plan)(model)

    assert result.modified
    for node in result.model.graph:
        if node.op_type in ("Conv", "Gemm", "Add", "MaxPool", "GlobalAveragePool", "Flatten"):
            for value in node.inputs:
                producer = value.producer() if value is not None else None
                assert producer is not None, node.name
                assert producer.op_type == "DequantizeLinear", node.name
    assert ops(result.model).count("QuantizeLinear") == 8  # x, r0, m0, c1, c2, r1, g, f
    assert ops(result.model).count("Clip") == 7  # all but x, which has 8 bits
    assert [value.name for value in result.model.graph.outputs] == ["y"]


def test_values_are_those_of_the_arithmetic(
    model: ir.Model, plan: Plan, feeds: dict[str, np.ndarray]
) -> None:
    weights = {name: np.array(array(value)) for name, value in model.graph.initializers.items()}
    quantized = InsertQdqPass(plan)(model).model

    found = run_onnx(quantized, feeds, expose=["x.codes", "r0", "r0.codes", "r0.dq", "w0", "b0"])

    x, r0, w0 = plan.activation("x"), plan.activation("r0"), plan.weight("w0")
    assert x is not None
    assert r0 is not None
    assert w0 is not None
    codes = arithmetic.quantize_weight(weights["w0"], w0.scale, w0.bits, w0.grid)
    bias = arithmetic.quantize_bias(weights["b0"], x.scale, w0.scale)
    r0_codes = arithmetic.quantize(found["r0"], r0.scale, r0.zero_point, 0, 2**r0.bits - 1)
    unit = np.float32(x.scale) * np.float32(w0.scale)
    expected = {
        "x.codes": arithmetic.quantize(feeds["x"], x.scale, x.zero_point, 0, 255),
        "r0.codes": r0_codes,
        "r0.dq": arithmetic.dequantize(r0_codes, r0.scale, r0.zero_point),
        "w0": arithmetic.dequantize(codes, np.float32(w0.scale).reshape(-1, 1, 1, 1)),
        "b0": arithmetic.dequantize(bias, unit),
    }
    assert_equivalent(expected, {name: found[name] for name in expected}, rtol=0, atol=0)


def test_notes_say_bits_grid_name_and_tie(model: ir.Model, plan: Plan) -> None:
    graph = InsertQdqPass(plan)(model).model.graph
    notes = {
        node.outputs[0].name: node.metadata_props for node in graph if metadata.NAME in node.metadata_props
    }

    assert notes["w0"] == {metadata.NAME: "w0", metadata.BITS: "4444", metadata.GRID: "odd"}
    assert notes["m0.dq"] == {metadata.NAME: "r0", metadata.BITS: "6"}
    assert notes["c1.dq"] == {metadata.NAME: "c1", metadata.BITS: "6", metadata.TIE: "c1"}


def test_codes_have_type_and_shape(model: ir.Model, plan: Plan) -> None:
    graph = InsertQdqPass(plan)(model).model.graph
    codes = {v.name: v for node in graph for v in node.outputs if str(v.name).endswith(".codes")}

    assert codes["m0.codes"].dtype == ir.DataType.UINT8
    assert codes["m0.codes"].shape is not None
    assert codes["m0.codes"].shape[1:] == (4, 4, 4)


def test_quantized_graph_output_keeps_its_name(rng: np.random.Generator) -> None:
    text = "net (float[N, 2, 4, 4] x) => (float[N, 2, 4, 4] y) { y = Conv (x, w) }"
    model = normal(text, {"w": rng.normal(size=(2, 2, 1, 1))})
    feeds = {"x": rng.normal(size=(1, 2, 4, 4)).astype(np.float32)}
    plan = complete(model, calibrated(model, feeds))

    quantized = InsertQdqPass(plan)(model).model

    (output,) = quantized.graph.outputs
    assert output.name == "y"
    assert output.producer() is not None
    assert output.producer().op_type == "DequantizeLinear"  # type: ignore[union-attr]
    assert set(run_onnx(quantized, feeds, expose=["y.codes"])) == {"y", "y.codes"}


def test_a_bias_of_two_operators_is_quantized_for_each(rng: np.random.Generator) -> None:
    text = """
    net (float[N, 2, 4, 4] x) => (float[N, 2, 4, 4] y) {
        a = Conv (x, w, b)
        r = Relu (a)
        y = Conv (r, v, b)
    }
    """
    weights = {
        "w": rng.normal(size=(2, 2, 1, 1)),
        "v": rng.normal(size=(2, 2, 1, 1)) * 9,
        "b": rng.normal(size=2),
    }
    model = normal(text, weights)
    feeds = {"x": rng.normal(size=(1, 2, 4, 4)).astype(np.float32)}
    before = np.float32(weights["b"])
    plan = complete(model, calibrated(model, feeds, grid=Grid.SIGNED))

    graph = InsertQdqPass(plan)(model).model.graph

    biases = [node.inputs[2] for node in graph if node.op_type == "Conv"]
    assert len({value.name for value in biases if value is not None}) == 2
    for value in biases:
        assert value is not None
        node = value.producer()
        assert node is not None
        codes, scale = array(node.inputs[0]), array(node.inputs[1])
        np.testing.assert_allclose(codes * scale, before, atol=scale.max() / 2)


def test_second_run_changes_nothing(model: ir.Model, plan: Plan) -> None:
    pass_ = InsertQdqPass(plan)
    quantized = pass_(model).model

    assert not pass_(quantized).modified


def test_empty_plan_changes_nothing(model: ir.Model) -> None:
    assert not InsertQdqPass(Plan(weights=(), activations=()))(model).modified


def test_incomplete_plan_is_refused(model: ir.Model, feeds: dict[str, np.ndarray]) -> None:
    open_plan = calibrated(model, feeds)

    with pytest.raises(ir.passes.PreconditionError, match="'w0' has none; calibrate the plan first"):
        InsertQdqPass(open_plan)(model)
