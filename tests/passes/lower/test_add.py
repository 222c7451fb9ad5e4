from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx_ir as ir
import pytest
from compare import run_onnx
from graphs import normal
from onnx_text import ops

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


def _model(
    scales: tuple[float, float, float] = (S, S, S),
    zeros: tuple[int, int, int] = (128, 128, 128),
    bits: int = 8,
) -> ir.Model:
    model = normal(
        """
        net (float[N] a, float[N] b) => (float[N] y) {
            s = Add (a, b)
            y = Relu (s)
        }
        """
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
    pytest.param((S, S, S), (128, 128, 128), 8, "QLinearAdd", id="equal"),
    pytest.param((S, S / 4, S * 2), (128, 3, 17), 8, "QLinearAdd", id="powers-of-two"),
    pytest.param((S, S, S * 2), (128, 128, 3), 4, "QLinearAdd", id="narrow-result"),
    pytest.param((S, S * 1.1, S * 1.7), (128, 100, 17), 8, "Round", id="general"),
    pytest.param((S, S, S * 1.7), (0, 0, 0), 5, "Round", id="general-no-zero-points"),
    pytest.param((S, S / 2**14, S), (128, 128, 128), 8, "Round", id="powers-too-far-apart"),
]


@pytest.mark.parametrize(("scales", "zeros", "bits", "form"), CASES)
def test_codes_are_those_of_the_arithmetic(
    scales: tuple[float, float, float], zeros: tuple[int, int, int], bits: int, form: str
) -> None:
    qdq = _model(scales, zeros, bits)
    codes = run_onnx(qdq, FEEDS, expose=["a.codes", "b.codes"])
    expected = arithmetic.add_codes(
        codes["a.codes"], scales[0], zeros[0], codes["b.codes"], scales[1], zeros[1],
        scales[2], zeros[2], zeros[2], 2**bits - 1,
    )  # fmt: skip

    result = LowerAddPass()(qdq)

    assert result.modified
    assert form in ops(result.model)
    assert ("QLinearAdd" in ops(result.model)) is (form == "QLinearAdd")
    result.model.graph.opset_imports["com.microsoft"] = 1
    for level in LEVELS:
        found = run_onnx(result.model, FEEDS, level=level, expose=["y.codes"])["y.codes"]
        np.testing.assert_array_equal(found, expected, err_msg=level)


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


@pytest.mark.parametrize("scales", [(S, S, S), (S, S, S * 1.7)])
def test_second_run_changes_nothing(scales: tuple[float, float, float]) -> None:
    model = LowerAddPass()(_model(scales)).model

    assert not LowerAddPass()(model).modified
