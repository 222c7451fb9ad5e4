from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest
from onnx_text import parse

from mpqtool.passes import metadata
from mpqtool.runtime import rounding
from mpqtool.runtime.reference import Reference
from mpqtool.runtime.rounding import Rounding, shaken

_STEP = rounding._STEP


def _node(op: str, inputs: str, output: str) -> ir.Node:
    node = ir.node(op, [ir.Value(name=name) for name in inputs.split()])
    node.outputs[0].name = output
    return node


def _floats(*numbers: float) -> list[np.ndarray]:
    return [np.array(numbers, np.float32)]


def test_each_operator_adds_to_what_its_inputs_are_off_by() -> None:
    followed = Rounding({"x": np.array([2.0], np.float32)})

    followed(_node("Relu", "x", "a"), _floats(2.0))
    followed(_node("Neg", "a", "b"), _floats(-2.0))

    assert followed.of("x") == 0
    assert followed.of("a") == pytest.approx(2 * _STEP)
    assert followed.of("b") == pytest.approx(4 * _STEP)


@pytest.mark.parametrize(
    ("op", "largest_inside"),
    [pytest.param("Sub", 1000.0, id="cancels"), pytest.param("Sigmoid", 1.0, id="bounded")],
)
def test_what_goes_in_counts_where_the_result_is_small(op: str, largest_inside: float) -> None:
    followed = Rounding({"x": np.array([-1000.0], np.float32)})

    followed(_node(op, "x x", "y"), _floats(1e-6))

    assert followed.of("y") == pytest.approx(_STEP * largest_inside)


def test_what_a_large_value_was_off_by_comes_through_relatively() -> None:
    followed = Rounding({"x": np.array([1.0], np.float32)})

    followed(_node("Sub", "x x", "a"), _floats(1e-3))
    followed(_node("Mul", "a k", "b"), _floats(1.0))

    assert followed.of("b") == pytest.approx(1000 * _STEP, rel=0.01)


def test_codes_are_exact_and_infinities_are_no_size() -> None:
    followed = Rounding({"x": np.array([1.0, np.inf], np.float32)})

    followed(_node("QuantizeLinear", "x", "c"), [np.array([200], np.uint8)])
    followed(_node("DequantizeLinear", "c", "y"), _floats(3.0, np.nan))

    assert followed.of("c") == 0
    assert followed.of("y") == pytest.approx(3 * _STEP)


def test_runs_that_round_at_random_are_apart_where_float32_settles_little() -> None:
    text = """net (float[N, 64] x) => (float[N, 1] v, float[N, 64] y) {
        m = ReduceMean <keepdims = 1> (x, a)
        p = Mul (x, x)
        e = ReduceMean <keepdims = 1> (p, a)
        n = Mul (m, m)
        v = Sub (e, n)
        y = Mul (x, two)
    }"""
    model = parse(text, {"a": np.array([1]), "two": np.float32(2)})
    for node in model.graph:
        node.metadata_props[metadata.ISLAND] = "it stays float"
    reference = Reference(model)
    x = np.random.default_rng(0).normal(size=(2, 64)).astype(np.float32)
    x[1] += 1000  # the variance is a millionth of what it is the difference of
    expected = reference.run({"x": x})
    runs = [reference.run({"x": x}, {}, shaken(seed)) for seed in range(3)]

    gaps = {name: np.maximum.reduce([np.abs(run[name] - expected[name]) for run in runs]) for name in "vy"}

    exact = model.graph[0]
    exact.metadata_props.pop(metadata.ISLAND)
    assert shaken(0)(exact, [x])[0] is x
    assert gaps["v"][0] < 1e-4
    assert gaps["v"][1] > 0.1
    np.testing.assert_allclose(gaps["y"], _STEP * np.abs(expected["y"]), rtol=0.5)
