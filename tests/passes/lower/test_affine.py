"""Sums with one number as QLinearAdd: only where no rounding on the way can make another code."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest
from compare import run_onnx
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx_text import ops, parse

from mpqtool.passes import arithmetic
from mpqtool.passes.lower.affine import affine
from mpqtool.passes.lower.match import Codes, Requantization
from mpqtool.runtime.reference import Reference
from mpqtool.runtime.session import LEVELS

EVERY = np.arange(256, dtype=np.uint8).reshape(1, 2, 8, 16)


def _written(
    ratio: float, shift: float, zero: int, y_zero: int, table: np.ndarray, *, bits: int = 8
) -> ir.Model:
    """A graph of the nodes alone; of no node but Identity where there are none."""
    model = parse("net (uint8[1,2,8,16] x) => (uint8[1,2,8,16] y) { y = Identity (x) }")
    graph, (node,) = model.graph, model.graph
    x = Codes("x", graph.inputs[0], np.float32(1), zero, bits)
    end = Requantization("y", (), node.outputs[0], np.float32(1), y_zero, 0, 255, 8)
    nodes = affine(graph, node, x, end, np.float32(ratio), np.float32(shift), table)
    if nodes:
        made = nodes[-1].outputs[0]
        made.name, made.type, made.shape = "codes", ir.TensorType(ir.DataType.UINT8), node.outputs[0].shape
        graph.insert_before(node, nodes)
        node.replace_input_with(0, made)
        graph.opset_imports["com.microsoft"] = 1
    return model


def _table(ratio: float, shift: float, zero: int, y_zero: int, low: int = 0, high: int = 255) -> np.ndarray:
    exact = (np.arange(256) - zero) * float(np.float32(ratio)) + float(np.float32(shift)) + y_zero
    return np.clip(np.rint(exact), low, high).astype(np.uint8)


@settings(max_examples=40, deadline=None)
@given(
    ratio=st.floats(0.01, 8),
    sign=st.sampled_from([1, -1]),
    shift=st.floats(-300, 300),
    zeros=st.tuples(st.integers(0, 255), st.integers(0, 255)),
    bounds=st.sampled_from([(0, 255), (0, 63), (17, 200)]),
)
def test_what_is_written_gives_the_table(
    ratio: float, sign: int, shift: float, zeros: tuple[int, int], bounds: tuple[int, int]
) -> None:
    table = _table(sign * ratio, shift, *zeros, *bounds)

    model = _written(sign * ratio, shift, *zeros, table)

    if ops(model) == ["Identity"]:
        return
    expected = table[EVERY]
    np.testing.assert_array_equal(Reference(model).run({"x": EVERY})["y"], expected)
    for level in LEVELS:
        np.testing.assert_array_equal(run_onnx(model, {"x": EVERY}, level=level)["y"], expected)


@pytest.mark.parametrize(
    ("ratio", "shift", "zeros", "bounds", "form"),
    [
        pytest.param(0.3712, 4.01, (100, 7), (0, 255), ["QLinearAdd"], id="inside"),
        pytest.param(0.3712, -4.01, (100, 7), (0, 255), ["QLinearAdd"], id="saturates"),
        pytest.param(1.3712, 0.01, (100, 7), (0, 100), ["QLinearAdd", "Clip"], id="bounded"),
        pytest.param(0.1, 0.01, (0, 0), (0, 100), ["QLinearAdd"], id="never-out-of-bounds"),
        pytest.param(0.5, 0.25, (0, 0), (0, 255), ["QLinearAdd"], id="a-quarter-from-every-boundary"),
        pytest.param(0.5, 0, (0, 0), (0, 255), [], id="on-boundaries"),
        pytest.param(0.5, 1e-5, (0, 0), (0, 255), [], id="near-to-boundaries"),
        pytest.param(1, np.inf, (0, 0), (0, 255), [], id="infinite"),
    ],
)
def test_form(
    ratio: float, shift: float, zeros: tuple[int, int], bounds: tuple[int, int], form: list[str]
) -> None:
    model = _written(ratio, shift, *zeros, _table(ratio, shift, *zeros, *bounds))

    assert ops(model) == [*form, "Identity"]


def test_another_table_is_refused() -> None:
    table = _table(0.3712, 4.01, 100, 7)
    table[30] += 1

    assert ops(_written(0.3712, 4.01, 100, 7, table)) == ["Identity"]


def test_only_codes_that_there_are_count() -> None:
    table = _table(0.3712, 4.01, 3, 7)
    table[30] += 1  # of a width of 4 bits there is no code 30

    assert ops(_written(0.3712, 4.01, 3, 7, table, bits=4)) == ["QLinearAdd", "Identity"]


def test_most_sums_with_a_number_are_clear_of_boundaries(rng: np.random.Generator) -> None:
    """What the bound of the error costs: all others take five times as long."""
    found = 0
    for _ in range(200):
        x_scale, y_scale, shift = rng.uniform(0.01, 0.03, size=3).astype(np.float32)
        zeros = [int(zero) for zero in rng.integers(0, 256, size=2)]
        term = shift * np.float32(20)
        table = arithmetic.shift_codes(np.arange(256), x_scale, zeros[0], term, y_scale, zeros[1], 0, 255)
        found += ops(_written(x_scale / y_scale, term / y_scale, *zeros, table)) != ["Identity"]

    assert found > 180
