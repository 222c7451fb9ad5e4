from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from compare import assert_equivalent, run_onnx
from graphs import calibrated, normal, residual_cnn
from onnx_text import ops

from mpqtool.passes import arithmetic, metadata
from mpqtool.passes.errors import ModelError
from mpqtool.passes.pipelines import lower, quantize
from mpqtool.passes.plan import Grid, Plan
from mpqtool.passes.quantize import InsertQdqPass, complete
from mpqtool.passes.values import array, names


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


def test_notes_say_bits_grid_and_name(model: ir.Model, plan: Plan) -> None:
    graph = InsertQdqPass(plan)(model).model.graph
    notes = {
        node.outputs[0].name: node.metadata_props for node in graph if metadata.NAME in node.metadata_props
    }

    assert notes["w0"] == {metadata.NAME: "w0", metadata.BITS: "4444", metadata.GRID: "odd"}
    assert notes["m0.dq"] == {metadata.NAME: "r0", metadata.BITS: "6"}
    assert notes["c1.dq"] == {metadata.NAME: "c1", metadata.BITS: "6"}


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
        # Half a step of rounding, and what float32 loses of a product.
        np.testing.assert_allclose(codes * scale, before, rtol=1e-6, atol=scale.max() / 2)


def _with_an_island(rename: dict[str, str]) -> ir.Model:
    """Everything that writes values of its own: narrow codes, a float operator, a sum with any ratios."""
    text = """
    net (float[N, 2, 4, 4] x) => (float[N, 2, 4, 4] y) {
        c = Conv (x, w)
        s = HardSigmoid (c)
        d = Conv (s, v)
        e = Add (c, d)
        y = Conv (e, w)
    }
    """
    rng = np.random.default_rng(0)
    model = normal(text, {name: rng.normal(size=(2, 2, 1, 1)) for name in ("w", "v")})
    for value in (value for node in model.graph for value in node.outputs):
        value.name = rename.get(str(value.name), value.name)
    return model


def _files(rename: dict[str, str]) -> list[ir.Model]:
    """The QDQ and the integer graph."""
    feeds = {"x": np.random.default_rng(1).normal(size=(3, 2, 4, 4)).astype(np.float32)}
    model = _with_an_island(rename)
    qdq = quantize(model, calibrated(model, feeds, activation_bits=4))
    return [qdq, lower(qdq)]


@pytest.mark.parametrize("renamed", ["s", "d", "e"])
def test_names_of_the_model_are_not_taken(renamed: str, feeds: dict[str, np.ndarray]) -> None:
    """Whatever the passes call a value of their own may be the name of a value of the model."""
    feeds = {"x": feeds["x"][:, :, :4, :4]}
    plain = _files({})
    expected = [run_onnx(model, feeds) for model in plain]
    own = names(_with_an_island({}).graph)
    made = {name for model in plain for name in names(model.graph) if not name.endswith(metadata.SUFFIX)}
    assert {"low", "high4", "c.wide", "c.dq", "s.dq", "y.float", "zero_int8"} < made

    for name in sorted(made - own):
        for model, outputs in zip(_files({renamed: name}), expected, strict=True):
            onnx.checker.check_model(ir.to_proto(model))
            assert_equivalent(outputs, run_onnx(model, feeds), rtol=0, atol=0)


def test_a_value_called_like_codes_is_refused(feeds: dict[str, np.ndarray]) -> None:
    model, feeds = _with_an_island({"d": "c.codes"}), {"x": feeds["x"][:, :, :4, :4]}
    plan = complete(model, calibrated(model, feeds))

    with pytest.raises(ModelError, match=r"Cannot quantize 'c': the model has a value called 'c\.codes'"):
        InsertQdqPass(plan)(model)


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
