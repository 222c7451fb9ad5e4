from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx_ir as ir
import pytest
from compare import run_onnx
from graphs import normal
from onnx_text import ops

from mpqtool.passes import arithmetic
from mpqtool.passes.lower.mul import LowerMulPass
from mpqtool.passes.pipelines import quantize
from mpqtool.passes.plan import ActivationQuant, Plan
from mpqtool.runtime.session import LEVELS

SCALES = {"a": 0.0131, "b": 0.0217, "y": 0.0393, "o": 0.0393}
ZEROS = {"a": 128, "b": 100, "y": 7, "o": 7}
FEEDS = {
    name: np.random.default_rng(i).normal(size=(2, 3, 9)).astype(np.float32) for i, name in enumerate("ab")
}


def _model(body: str = "m = Mul (a, b) y = Relu (m)", bits: int = 8, **constants: object) -> ir.Model:
    """Concat asks for codes: without it the product would stay float."""
    inputs = ", ".join(f"float[2, 3, 9] {name}" for name in "ab" if f"({name}" in body or f" {name})" in body)
    model = normal(
        f"net ({inputs}) => (float[N, 3, 9] o) {{ {body} o = Concat <axis = 0> (y, y) }}",
        {name: np.asarray(number, np.float32) for name, number in constants.items()},
    )
    made = {value.name for node in model.graph for value in node.outputs} | {
        v.name for v in model.graph.inputs
    }
    names = [name for name in "abyo" if name in made and not (name == "y" and constants)]
    return quantize(
        model,
        Plan(
            weights=(),
            activations=tuple(
                ActivationQuant(
                    name=n,
                    bits=bits if n == "y" else 8,
                    scale=float(np.float32(SCALES[n])),
                    zero_point=ZEROS[n],
                )
                for n in names
            ),
        ),
    )


@pytest.mark.parametrize("bits", [4, 8])
def test_codes_are_those_of_the_arithmetic(bits: int) -> None:
    qdq = _model(bits=bits)
    codes = run_onnx(qdq, FEEDS, expose=["a.codes", "b.codes"])
    a, b = ((codes[f"{n}.codes"], SCALES[n], ZEROS[n]) for n in "ab")
    expected = arithmetic.multiply_codes(*a, *b, SCALES["y"], 7, 7, 2**bits - 1)

    result = LowerMulPass()(qdq)

    assert result.modified
    assert "QLinearMul" in ops(result.model)
    result.model.graph.opset_imports["com.microsoft"] = 1
    for level in LEVELS:
        found = run_onnx(result.model, FEEDS, level=level, expose=["y.codes"])["y.codes"]
        np.testing.assert_array_equal(found, expected, err_msg=level)


@pytest.mark.parametrize("body", ["y = Mul (a, k)", "y = Mul (k, a)", "y = Div (a, k)"])
def test_a_positive_number_goes_into_the_scale(body: str) -> None:
    qdq = _model(body, k=[0.3])
    feeds = {"a": FEEDS["a"]}
    before = run_onnx(qdq, feeds, expose=["a.codes", "y.codes", "y.dq"])

    result = LowerMulPass()(qdq)

    assert result.modified
    assert "Identity" in ops(result.model)
    after = run_onnx(result.model, feeds, expose=["a.codes", "y.codes", "y.dq"])
    np.testing.assert_array_equal(after["y.codes"], after["a.codes"])
    np.testing.assert_array_equal(before["y.codes"], after["a.codes"])
    number = np.float32(1) / np.float32(0.3) if "Div" in body else np.float32(0.3)
    scale = np.float32(SCALES["a"]) * number
    np.testing.assert_array_equal(after["y.dq"], (after["y.codes"].astype(np.float32) - 128) * scale)


def _float_operand(model: ir.Model) -> None:
    next(n for n in model.graph if n.op_type == "Mul").replace_input_with(1, model.graph.inputs[1])


def _second_user(model: ir.Model) -> None:
    mul = next(n for n in model.graph if n.op_type == "Mul")
    model.graph.outputs.append(mul.outputs[0])


@pytest.mark.parametrize("spoil", [_float_operand, _second_user])
def test_is_left_alone(spoil: Callable[[ir.Model], None]) -> None:
    model = _model()
    spoil(model)

    assert not LowerMulPass()(model).modified


@pytest.mark.parametrize(
    "constant",
    [
        pytest.param(-0.3, id="negative"),
        pytest.param(0.0, id="zero"),
        pytest.param(np.linspace(1, 2, 9), id="array"),
        pytest.param(np.full((1, 1, 1, 1), 2), id="of-higher-rank"),
    ],
)
@pytest.mark.parametrize("op", ["Mul", "Div"])
def test_other_constants_are_left_alone(constant: object, op: str) -> None:
    text = f"net (float[2, 3, 9] a) => (float[M] o) {{ y = {op} (a, k) o = Concat <axis = 0> (y, y) }}"
    model = normal(text, {"k": np.asarray(constant, np.float32)})
    entries = tuple(
        ActivationQuant(name=n, bits=8, scale=float(np.float32(SCALES[n])), zero_point=ZEROS[n]) for n in "yo"
    )
    qdq = quantize(model, Plan(weights=(), activations=entries))

    assert not LowerMulPass()(qdq).modified


def test_another_scale_behind_a_number_is_left_alone() -> None:
    model = _model("y = Mul (a, k)", k=[0.3])
    mul = next(node for node in model.graph if node.op_type == "Mul")
    model.graph.initializers[str(mul.inputs[1].name)].const_value = ir.tensor(np.array([0.4], np.float32))

    assert not LowerMulPass()(model).modified


@pytest.mark.parametrize(
    ("body", "constants"), [("m = Mul (a, b) y = Relu (m)", {}), ("y = Mul (a, k)", {"k": 2})]
)
def test_second_run_changes_nothing(body: str, constants: dict[str, float]) -> None:
    model = LowerMulPass()(_model(body, **constants)).model

    assert not LowerMulPass()(model).modified
