from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx_ir as ir
import pytest
from compare import run_onnx
from one_function import OPERATORS, Side, network
from onnx_ir.passes import common
from onnx_text import ops, parse

from mpqtool.passes import arithmetic, functions, metadata, pipelines
from mpqtool.passes.lower import table as table_pass
from mpqtool.passes.lower.table import LowerTablePass
from mpqtool.passes.values import all_values
from mpqtool.runtime.session import LEVELS

X, Y = Side(0.0512345, 117), Side(0.0123456, 30)
TABLE = ["Reshape", "Cast", "GatherElements", "Cast", "Reshape"]
AS_IT_IS = ["DequantizeLinear", "HardSwish", "QuantizeLinear"]
SIGMOID = Side(0.9 / 255, 0)  # a scale at which no code is near a boundary


def _qdq(op: str, x: Side = X, y: Side = Y, **options: str) -> tuple[ir.Model, dict[str, np.ndarray]]:
    model, plan, feeds = network(op, x, y, **options)
    return pipelines.quantize(model, plan), feeds


def _middle(model: ir.Model) -> list[str]:
    """The operators between the codes of the input and the Conv."""
    found = ops(model)
    return found[1 : found.index("QLinearConv")]


@pytest.mark.parametrize("op", OPERATORS)
@pytest.mark.parametrize(("x_bits", "y_bits"), [(8, 8), (7, 4)])
def test_codes_are_those_of_the_qdq_file(op: str, x_bits: int, y_bits: int) -> None:
    """Which rounds the function in float32: no code here is so near to a boundary that it matters."""
    qdq, feeds = _qdq(op, Side(0.0512345, 57, x_bits), Side(0.0523456, 5, y_bits))
    expected = run_onnx(qdq, feeds, expose=["f.codes"])["f.codes"]

    lowered = pipelines.lower(qdq)

    assert not [node for node in lowered.graph if metadata.ISLAND in node.metadata_props]
    for level in LEVELS:
        found = run_onnx(lowered, feeds, level=level, expose=["f.codes"])["f.codes"]
        np.testing.assert_array_equal(found, expected, err_msg=level)
    (made,) = [node for node in lowered.graph if "f.codes" in {value.name for value in node.outputs}]
    assert made.metadata_props[metadata.BITS] == str(y_bits)


@pytest.mark.parametrize(
    ("op", "x", "y", "form"),
    [
        pytest.param("Tanh (x)", X, Y, TABLE, id="table"),
        pytest.param("Sigmoid (x)", X, SIGMOID, ["QLinearSigmoid"], id="clear-of-boundaries"),
        pytest.param("Sigmoid (x)", X, Side(1e-4, 0), TABLE, id="at-a-boundary"),
        pytest.param("Sigmoid (x)", X, Side(1 / 255, 0), ["QLinearSigmoid"], id="a-half-is-exact"),
        pytest.param("LeakyRelu (x)", X, Y, ["QLinearLeakyRelu"], id="leaky"),
        pytest.param("LeakyRelu (x)", X, Side(0.1, 3, 5), ["QLinearLeakyRelu", "Clip"], id="leaky-narrow"),
        pytest.param("HardSwish (x)", Side(3 / 64, 70), Y, ["Clip", "QLinearMul"], id="product"),
        pytest.param("HardSwish (x)", Side(3 / 64, 70), Side(0.1, 3, 5), ["Clip", "QLinearMul", "Clip"],
                     id="product-narrow"),
        pytest.param("HardSwish (x)", Side(3 / 64, 63), Y, ["QLinearAdd", "Clip", "QLinearMul"],
                     id="no-room-below"),
        pytest.param("HardSwish (x)", Side(3 / 127, 0), Y, ["QLinearAdd", "Clip", "QLinearMul"],
                     id="no-room-below-at-all"),
        pytest.param("HardSwish (x)", Side(3 / 128, 63), Y, AS_IT_IS, id="no-room-at-all"),
        pytest.param("HardSwish (x)", X, Y, AS_IT_IS, id="no-whole-codes"),
        pytest.param("HardSwish (x)", X, Side(0.0987, 3, 5), [*AS_IT_IS, "Clip"], id="narrow"),
        pytest.param("HardSwish (x)", X, Side(1e-4, 30), TABLE, id="hard-swish-at-a-boundary"),
        pytest.param("HardSigmoid (x)", X, Side(1 / 256, 0), ["QLinearAdd"], id="ramp"),
        pytest.param("HardSigmoid (x)", X, Side(1 / 200, 30), ["QLinearAdd", "Clip"], id="bounded-ramp"),
        pytest.param("HardSigmoid <alpha = -0.3> (x)", X, Side(1 / 256, 0), ["QLinearAdd"], id="falling"),
        pytest.param("HardSigmoid (x)", Side(0.05, 117), Side(0.02, 0), TABLE, id="ramp-on-boundaries"),
    ],
)  # fmt: skip
def test_form_is_the_fastest_that_is_exact(op: str, x: Side, y: Side, form: list[str]) -> None:
    qdq, feeds = _qdq(op, x, y)

    lowered = pipelines.lower(qdq)

    assert _middle(lowered) == form
    codes = run_onnx(lowered, feeds, expose=["x.codes", "f.codes"])
    if "QLinearMul" not in form:
        attributes = {"alpha": -0.3} if "alpha" in op else {}
        reals = functions.outputs(op.split()[0], float(np.float32(x.scale)), x.zero_point, **attributes)
        table = arithmetic.quantize(reals, y.scale, y.zero_point, 0, 2**y.bits - 1)
        np.testing.assert_array_equal(codes["f.codes"], table[codes["x.codes"]])
        assert set(codes["f.codes"].flat) == set(table)  # every code occurred


@pytest.mark.parametrize(("zero", "bits"), [(64, 8), (128, 8), (250, 8), (64, 7), (70, 7), (63, 8), (0, 8)])
def test_product_is_hard_swish(zero: int, bits: int) -> None:
    """On both sides of its kinks, where the clamped codes saturate, below zero, and in less than 8 bits."""
    x, y = Side(3 / 64, zero, bits), Side(0.05, 40)
    qdq, feeds = _qdq("HardSwish (x)", x, y)

    lowered = pipelines.lower(qdq)

    found = run_onnx(lowered, feeds, expose=["x.codes", "f.codes"])
    codes = found["x.codes"]
    gate = np.clip(codes.astype(int), zero - 64, min(zero + 64, 255))
    expected = arithmetic.multiply_codes(
        codes, 3 / 64, zero, gate, float(np.float32(3 / 64) / np.float32(6)), zero - 64, 0.05, 40, 0, 255
    )
    np.testing.assert_array_equal(found["f.codes"], expected)
    reals = functions.outputs("HardSwish", 3 / 64, zero)
    table = arithmetic.quantize(reals, 0.05, 40, 0, 255)
    assert np.abs(table[codes].astype(int) - expected).max() <= 1
    assert len(set(codes.flat)) == 2**bits


@pytest.mark.parametrize("op", ["Tanh (x)", "LeakyRelu (x)", "HardSwish (x)"])
@pytest.mark.parametrize("behind", ["Relu", "Clip"])
def test_bounds_behind_are_bounds_of_the_codes(op: str, behind: str) -> None:
    x = Side(3 / 64, 70)
    qdq, feeds = _qdq(op, x, behind=behind)
    expected = run_onnx(qdq, feeds, expose=["f.codes"])["f.codes"]

    lowered = pipelines.lower(qdq)

    if op == "Tanh (x)":
        assert _middle(lowered) == TABLE
    found = run_onnx(lowered, feeds, expose=["f.codes"])["f.codes"]
    # HardSwish by definition is the product of codes, half a code from the real one at most.
    atol = 1 if op == "HardSwish (x)" else 0
    np.testing.assert_allclose(found.astype(int), expected, rtol=0, atol=atol)
    assert found.min() == expected.min()
    assert found.max() == expected.max()


@pytest.mark.parametrize(
    ("shape", "form"),
    [
        ((32, 2, 4), TABLE),
        (("N", 2, 4), TABLE),
        (("N", 2, "W"), [*TABLE[:-1], "Shape", "Reshape"]),
        (None, [*TABLE[:-1], "Shape", "Reshape"]),
    ],
)
def test_shape_may_be_unknown(shape: tuple[int | str, ...] | None, form: list[str]) -> None:
    qdq, feeds = _qdq("Tanh (x)")
    expected = run_onnx(qdq, feeds, expose=["f.codes"])["f.codes"]
    for node in qdq.graph:
        for value in node.outputs:
            value.shape = None if shape is None or value.name == "y" else ir.Shape(shape)

    model = LowerTablePass()(qdq).model

    assert [op for op in ops(model) if op in (*TABLE, "Shape")] == form
    found = run_onnx(model, feeds, expose=["f.codes"])["f.codes"]
    np.testing.assert_array_equal(found, expected)


def test_vector_needs_no_reshape() -> None:
    qdq, feeds = _qdq("Tanh (x)")
    (codes,) = [value for node in qdq.graph for value in node.outputs if value.name == "f.codes"]
    qdq.graph.outputs[:] = [codes]  # no layer takes a vector
    common.RemoveUnusedNodesPass()(qdq)
    for value in all_values(qdq.graph):
        value.shape = ir.Shape(("N",))

    model = LowerTablePass()(qdq).model

    assert "Reshape" not in ops(model)
    found = run_onnx(model, {"x": feeds["x"].reshape(-1)}, expose=["x.codes"])
    reals = functions.outputs("Tanh", float(np.float32(X.scale)), X.zero_point)
    table = arithmetic.quantize(reals, Y.scale, Y.zero_point, 0, 255)
    np.testing.assert_array_equal(found["f.codes"], table[found["x.codes"]])


def _float_input(model: ir.Model) -> None:
    (node,) = [node for node in model.graph if node.op_type == "Tanh"]
    node.replace_input_with(0, model.graph.inputs[0])


def _second_user(model: ir.Model) -> None:
    (node,) = [node for node in model.graph if node.op_type == "Tanh"]
    model.graph.outputs.append(node.outputs[0])


@pytest.mark.parametrize("spoil", [_float_input, _second_user])
def test_is_left_alone(spoil: Callable[[ir.Model], None]) -> None:
    qdq, _ = _qdq("Tanh (x)")
    spoil(qdq)
    before = ops(qdq)

    assert not LowerTablePass()(qdq).modified
    assert ops(qdq) == before


@pytest.mark.parametrize("op", ["Tanh (x)", "LeakyRelu (x)"])
def test_second_run_changes_nothing(op: str) -> None:
    model = LowerTablePass()(_qdq(op)[0]).model

    assert not LowerTablePass()(model).modified


def test_function_of_silu_does_not_stay_in_the_file() -> None:
    qdq, _ = _qdq("Mul (x, gate)")

    assert [function.name for function in qdq.functions.values()] == ["Silu"]
    assert "Silu" not in [function.name for function in pipelines.lower(qdq).functions.values()]


def test_error_of_the_sigmoid_of_onnx_runtime_is_below_what_is_assumed() -> None:
    x = np.linspace(-30, 30, 200_001, dtype=np.float32)

    found = run_onnx(parse("net (float[N] x) => (float[N] y) { y = Sigmoid (x) }"), {"x": x})["y"]

    error = np.abs(found - 1 / (1 + np.exp(-x.astype(np.float64)))).max()
    assert 1e-8 < error < table_pass._LOGISTIC_ERROR / 2
