from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest
from onnx_text import parse

from mpqtool.passes.normalize.ramp import factors, polynomial, ramps


def _output(body: str) -> tuple[ir.Value, ir.Value]:
    weights = {"two": 2.0, "three": 3.0, "zero": 0.0, "six": 6.0}
    used = {name: number for name, number in weights.items() if name in body}
    model = parse(f"net (float[n] x) => (float[n] y) {{ {body} }}", used)
    return model.graph.inputs[0], model.graph.outputs[0]


@pytest.mark.parametrize(
    ("body", "slope", "offset", "low", "high"),
    [
        ("a = Add(x, three) y = Clip(a, zero, six)", 1, 3, 0, 6),
        ("a = Sub(three, x) y = Div(a, two)", -0.5, 1.5, -np.inf, np.inf),
        ("a = Relu(x) y = Neg(a)", -1, 0, -np.inf, 0),
        ("a = Min(x, three) b = Mul(a, two) y = Max(b, zero)", 2, 0, 0, 6),
        ("a = Max(x, three) y = Min(a, two)", 1, 0, 2, 2),
        ("y = HardSigmoid(x)", 0.2, 0.5, 0, 1),
    ],
)
def test_reads_clipped_lines(body: str, slope: float, offset: float, low: float, high: float) -> None:
    x, y = _output(body)
    *_, last = ramps(y)
    assert last.source is x
    assert (last.slope, last.offset, last.low, last.high) == (pytest.approx(slope), offset, low, high)


@pytest.mark.parametrize("body", ["y = Div(three, x)", "y = Mul(x, zero)", "y = Abs(x)", "y = Clip(x, x)"])
def test_goes_no_further(body: str) -> None:
    (only,) = ramps(_output(body)[1])
    assert only.is_linear


def test_factors_take_numbers_out() -> None:
    x, y = _output("a = Mul(x, x) b = Mul(two, a) y = Div(b, three)")
    assert factors(y.producer()) == (pytest.approx(2 / 3), x, x)
    assert factors(_output("y = Mul(x, two)")[1].producer()) is None


def test_polynomials_add_and_multiply() -> None:
    x, y = _output("a = Mul(x, x) b = Add(a, three) c = Mul(b, x) d = Pow(x, two) y = Sub(c, d)")
    assert polynomial(y, x) == {1: 3.0, 2: -1.0, 3: 1.0}
    x, y = _output("y = Exp(x)")
    assert polynomial(y, x) is None


def test_a_long_way_is_no_polynomial() -> None:
    doubled = [f"a{i + 1} = Add(a{i}, a{i})" for i in range(40)]
    x, y = _output(" ".join(["a0 = Add(x, x)", *doubled, "y = Add(a40, x)"]))
    assert polynomial(y, x) is None


def test_looks_back_over_eight_nodes_at_most() -> None:
    chain = " ".join(f"a{i + 1} = Add(a{i}, two)" for i in range(2000))
    _, y = _output(f"a0 = Abs(x) {chain} y = Relu(a2000)")
    assert len([*ramps(y)]) == 9
    chain = " ".join(f"a{i + 1} = Mul(a{i}, two)" for i in range(9))
    _, y = _output(f"a0 = Mul(x, x) {chain} y = Relu(a9)")
    assert factors(y.producer().inputs[0].producer()) is None
