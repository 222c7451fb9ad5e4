from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx_ir as ir
import pytest
from compare import run_onnx
from graphs import normal
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from onnx_text import ops, parse

from mpqtool.passes import arithmetic
from mpqtool.passes.lower.add import LowerAddPass
from mpqtool.passes.pipelines import quantize
from mpqtool.passes.plan import ActivationQuant, Plan
from mpqtool.runtime.session import LEVELS

S = 0.0123456
FEEDS = {
    name: np.random.default_rng(i).uniform(-128, 128, size=4000).astype(np.float32) * S
    for i, name in enumerate("ab")
}
TERM = np.random.default_rng(2).normal(size=4000).astype(np.float32)


def _model(
    scales: tuple[float, float, float] = (S, S, S),
    zeros: tuple[int, int, int] = (128, 128, 128),
    bits: int = 8,
    term: NDArray[np.float32] | None = None,
) -> ir.Model:
    """``y = relu(a + b)``, or ``relu(term + a)``, which is quantized where something else wants it."""
    model = normal(
        """
        net (float[N] a, float[N] b) => (float[N] y) {
            s = Add (a, b)
            y = Relu (s)
        }
        """
        if term is None
        else """
        net (float[N] a) => (float[M] b) {
            s = Add (term, a)
            y = Relu (s)
            b = Concat <axis = 0> (y, y)
        }
        """,
        None if term is None else {"term": term},
    )
    plan = Plan(
        weights=(),
        activations=tuple(
            ActivationQuant(name=name, bits=width, scale=float(np.float32(scale)), zero_point=zero)
            for name, width, scale, zero in zip("aby", (8, 8, bits), scales, zeros, strict=True)
        ),
    )
    return quantize(model, plan)


CASES = [
    pytest.param((S, S, S), (128, 128, 128), 8, id="equal"),
    pytest.param((S, S / 4, S * 2), (128, 3, 17), 8, id="powers-of-two"),
    pytest.param((S, S, S * 2), (128, 128, 3), 4, id="narrow-result"),
    pytest.param((S, S * 1.1, S * 1.7), (128, 100, 17), 8, id="general"),
    pytest.param((S, S, S * 1.7), (0, 0, 0), 5, id="general-no-zero-points"),
    pytest.param((S, S / 2**14, S), (128, 128, 128), 8, id="powers-far-apart"),
    pytest.param((S * 100, S / 2**20, S / 30), (128, 128, 128), 8, id="far-apart"),
]


@pytest.mark.parametrize(("scales", "zeros", "bits"), CASES)
def test_codes_are_those_of_the_arithmetic(
    scales: tuple[float, float, float], zeros: tuple[int, int, int], bits: int
) -> None:
    qdq = _model(scales, zeros, bits)
    codes = run_onnx(qdq, FEEDS, expose=["a.codes", "b.codes"])
    ratios = arithmetic.add_ratios(*scales)
    expected = arithmetic.add_codes(
        codes["a.codes"], ratios[0], zeros[0], codes["b.codes"], ratios[1], zeros[1], zeros[2],
        zeros[2], 2**bits - 1,
    )  # fmt: skip

    result = LowerAddPass()(qdq)

    assert result.modified
    assert "QLinearAdd" in ops(result.model)
    result.model.graph.opset_imports["com.microsoft"] = 1
    for level in LEVELS:
        found = run_onnx(result.model, FEEDS, level=level, expose=["y.codes"])["y.codes"]
        np.testing.assert_array_equal(found, expected, err_msg=level)


@settings(max_examples=25, deadline=None)
@given(
    scales=st.tuples(*[st.floats(2.0**-13, 8, width=32)] * 3),
    zeros=st.tuples(*[st.integers(0, 255)] * 3),
    shapes=st.sampled_from(
        [((37,), (37,)), ((3, 1, 5), (2, 1)), ((1,), (2, 19)), ((1, 4, 3, 3), (2, 4, 1, 1))]
    ),
    seed=st.integers(0, 2**16),
)
def test_qlinear_add_is_exact_with_any_scales(
    scales: tuple[float, float, float],
    zeros: tuple[int, int, int],
    shapes: tuple[tuple[int, ...], tuple[int, ...]],
    seed: int,
) -> None:
    """With the ratios as they are, one code in some 250 would be another."""
    rng = np.random.default_rng(seed)
    a, b = (rng.integers(0, 256, shape).astype(np.uint8) for shape in shapes)
    ratios = arithmetic.add_ratios(*scales)
    names = {"ra": ratios[0], "rb": ratios[1], "one": 1}
    names |= {name: np.array(zero, np.uint8) for name, zero in zip(("za", "zb", "zy"), zeros, strict=True)}
    call = "y = com.microsoft.QLinearAdd (a, ra, za, b, rb, zb, one, zy)"
    model = parse(
        f"net (uint8[{_shape(a)}] a, uint8[{_shape(b)}] b) => (uint8[{_shape(a + b)}] y) {{ {call} }}", names
    )

    found = run_onnx(model, {"a": a, "b": b})["y"]

    exact = (a.astype(np.float64) - zeros[0]) * ratios[0] + (b.astype(np.float64) - zeros[1]) * ratios[1]
    np.testing.assert_array_equal(found, np.clip(np.rint(exact + zeros[2]), 0, 255).astype(np.uint8))


def _shape(x: NDArray[np.uint8]) -> str:
    return ",".join(map(str, x.shape))


@pytest.mark.parametrize("bits", [5, 8])
@pytest.mark.parametrize("scale", [S * 1.7, S * 2])
def test_a_constant_keeps_its_precision(scale: float, bits: int) -> None:
    qdq = _model((S, S, scale), (128, 0, 17), bits, TERM)
    codes = run_onnx(qdq, {"a": FEEDS["a"]}, expose=["a.codes"])["a.codes"]
    expected = arithmetic.shift_codes(codes, S, 128, TERM, np.float32(scale), 17, 17, 2**bits - 1)

    result = LowerAddPass()(qdq)

    assert result.modified
    lowered = ops(result.model)
    assert lowered[lowered.index("Add") - 1 :][:3] == ["DequantizeLinear", "Add", "QuantizeLinear"]
    for level in LEVELS:
        found = run_onnx(result.model, {"a": FEEDS["a"]}, level=level, expose=["y.codes"])["y.codes"]
        np.testing.assert_array_equal(found, expected, err_msg=level)


@pytest.mark.parametrize("bits", [5, 8])
@pytest.mark.parametrize(
    ("term", "scale", "form"),
    [
        pytest.param(0.1234, S * 1.7, ["QLinearAdd", "Clip"], id="clear-of-boundaries"),
        pytest.param([-0.1234], S * 1.7, ["QLinearAdd", "Clip"], id="of-rank-1"),
        pytest.param(S, S * 2, ["DequantizeLinear", "Add", "QuantizeLinear"], id="on-boundaries"),
    ],
)
def test_one_number_is_added_by_an_integer_operator(
    term: float | list[float], scale: float, form: list[str], bits: int
) -> None:
    number = np.array(term, np.float32)
    qdq = _model((S, S, scale), (128, 0, 17), bits, number)
    codes = run_onnx(qdq, {"a": FEEDS["a"]}, expose=["a.codes"])["a.codes"]
    expected = arithmetic.shift_codes(codes, S, 128, number, np.float32(scale), 17, 17, 2**bits - 1)

    lowered = LowerAddPass()(qdq).model

    found = ops(lowered)
    start = found.index("Add") - 1 if "Add" in form else found.index("QLinearAdd")
    assert found[start:][: len(form)] == form
    lowered.graph.opset_imports["com.microsoft"] = 1
    for level in LEVELS:
        made = run_onnx(lowered, {"a": FEEDS["a"]}, level=level, expose=["y.codes"])["y.codes"]
        np.testing.assert_array_equal(made, expected, err_msg=level)


def _float_operand(model: ir.Model) -> None:
    next(n for n in model.graph if n.op_type == "Add").replace_input_with(1, model.graph.inputs[1])


def _second_user(model: ir.Model) -> None:
    add = next(n for n in model.graph if n.op_type == "Add")
    model.graph.outputs.append(add.outputs[0])


@pytest.mark.parametrize("spoil", [_float_operand, _second_user])
def test_is_left_alone(spoil: Callable[[ir.Model], None]) -> None:
    model = _model()
    spoil(model)

    assert not LowerAddPass()(model).modified


@pytest.mark.parametrize("term", [None, TERM])
def test_second_run_changes_nothing(term: NDArray[np.float32] | None) -> None:
    model = LowerAddPass()(_model((S, S, S * 1.7), term=term)).model

    assert not LowerAddPass()(model).modified
