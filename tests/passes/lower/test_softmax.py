from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx_ir as ir
import pytest
from compare import run_onnx
from one_function import Side, network
from onnx_text import ops

from mpqtool.passes import functions, metadata, pipelines
from mpqtool.passes.lower.softmax import LowerSoftmaxPass
from mpqtool.runtime.session import LEVELS

X, Y = Side(0.0512345, 117), Side(1 / 255, 0)


def _qdq(axis: int, x: Side = X, y: Side = Y, **options: str) -> tuple[ir.Model, dict[str, np.ndarray]]:
    model, plan, feeds = network(f"Softmax <axis = {axis}> (x)", x, y, **options)
    return pipelines.quantize(model, plan), feeds


@pytest.mark.parametrize("axis", [-1, 1, 2])
@pytest.mark.parametrize(
    ("x", "y", "last"),
    [
        pytest.param(X, Y, ["Div", "Round", "Cast"], id="plain"),
        pytest.param(Side(1.3, 3, 5), Side(1 / 15, 0, 4), ["Div", "Round", "Cast"], id="narrow"),
        pytest.param(X, Side(1 / 300, 0), ["Div", "Round", "Clip", "Cast"], id="saturates"),
        pytest.param(X, Side(1 / 200, 20), ["Div", "Round", "Add", "Cast"], id="zero-point"),
        pytest.param(X, Side(1 / 15, 3, 4), ["Div", "Round", "Add", "Clip", "Cast"], id="narrow-saturates"),
    ],
)
def test_codes_are_those_of_the_definition(axis: int, x: Side, y: Side, last: list[str]) -> None:
    qdq, feeds = _qdq(axis, x, y, shape="N, 3, 40")
    codes = run_onnx(qdq, feeds, expose=["x.codes"])["x.codes"]
    expected = functions.softmax_codes(codes, axis, x.scale, y.scale, y.zero_point, 0, 2**y.bits - 1)

    lowered = pipelines.lower(qdq)

    found = ops(lowered)
    assert found[: found.index("QLinearConv")][-len(last) :] == last
    assert not [node for node in lowered.graph if metadata.ISLAND in node.metadata_props]
    for level in LEVELS:
        found = run_onnx(lowered, feeds, level=level, expose=["f.codes"])["f.codes"]
        np.testing.assert_array_equal(found, expected, err_msg=level)
    (made,) = [node for node in lowered.graph if "f.codes" in {value.name for value in node.outputs}]
    assert made.metadata_props[metadata.BITS] == str(y.bits)


@pytest.mark.parametrize("known", [True, False])
@pytest.mark.parametrize("length", [256, 257])
def test_long_sums_are_in_float64(length: int, known: bool) -> None:
    """All codes are the largest: 256 of them make 2**24, what float32 still holds."""
    qdq, feeds = _qdq(-1, shape=f"N, 2, {length}")
    feeds["x"][:] = feeds["x"].max()
    feeds["x"][0, 0, :5] = feeds["x"].min()
    if not known:
        for node in qdq.graph:
            for value in node.outputs:
                value.shape = None if value.name != "y" else value.shape
    codes = run_onnx(qdq, feeds, expose=["x.codes"])["x.codes"]
    expected = functions.softmax_codes(codes, -1, X.scale, Y.scale, 0, 0, 255)

    model = LowerSoftmaxPass()(qdq).model

    doubles = [node for node in model.graph if node.outputs[0].dtype is ir.DataType.DOUBLE]
    assert bool(doubles) is (length > 256 or not known)
    assert ("Shape" in ops(model)) is not known
    for level in LEVELS:
        found = run_onnx(model, feeds, level=level, expose=["f.codes"])["f.codes"]
        np.testing.assert_array_equal(found, expected, err_msg=level)


def test_bounds_behind_are_bounds_of_the_codes() -> None:
    qdq, feeds = _qdq(-1, behind="Clip", shape="N, 2, 4")
    codes = run_onnx(qdq, feeds, expose=["x.codes"])["x.codes"]
    expected = functions.softmax_codes(codes, -1, X.scale, Y.scale, 0, 0, 178)  # 0.7 in steps of 1 / 255

    found = run_onnx(pipelines.lower(qdq), feeds, expose=["f.codes"])["f.codes"]

    np.testing.assert_array_equal(found, expected)
    assert found.max() == 178


def _float_input(model: ir.Model) -> None:
    (node,) = [node for node in model.graph if node.op_type == "Softmax"]
    node.replace_input_with(0, model.graph.inputs[0])


def _second_user(model: ir.Model) -> None:
    (node,) = [node for node in model.graph if node.op_type == "Softmax"]
    model.graph.outputs.append(node.outputs[0])


@pytest.mark.parametrize("spoil", [_float_input, _second_user])
def test_is_left_alone(spoil: Callable[[ir.Model], None]) -> None:
    qdq, _ = _qdq(-1)
    spoil(qdq)
    before = ops(qdq)

    assert not LowerSoftmaxPass()(qdq).modified
    assert ops(qdq) == before


def test_second_run_changes_nothing() -> None:
    model = LowerSoftmaxPass()(_qdq(-1)[0]).model

    assert not LowerSoftmaxPass()(model).modified
