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
from mpqtool.passes.values import set_array


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

    assert without.weights == with_notes.weights
    untied = [a.model_copy(update={"tie": None}) for a in with_notes.activations]
    assert list(without.activations) == untied


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
