from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest
from compare import run_onnx
from graphs import normal
from onnx_text import ops

from mpqtool.passes import arithmetic
from mpqtool.passes.lower.concat import LowerConcatPass
from mpqtool.passes.pipelines import quantize
from mpqtool.passes.plan import ActivationQuant, Plan
from mpqtool.runtime.session import LEVELS

FEEDS = {
    name: np.random.default_rng(i).normal(size=(50, 7)).astype(np.float32) for i, name in enumerate("ab")
}
SCALES = {"a": 0.0131, "b": 0.0217, "y": 0.0193}
ZEROS = {"a": 128, "b": 100, "y": 7}


def _model(bits: int = 8) -> ir.Model:
    model = normal("net (float[N, 7] a, float[N, 7] b) => (float[N, 14] y) { y = Concat <axis = 1> (a, b) }")
    return quantize(
        model,
        Plan(
            weights=(),
            activations=tuple(
                ActivationQuant(name=n, bits=bits if n == "y" else 8, scale=SCALES[n], zero_point=ZEROS[n])
                for n in "aby"
            ),
        ),
    )


@pytest.mark.parametrize("bits", [5, 8])
def test_inputs_are_brought_to_the_scale_of_the_output(bits: int) -> None:
    qdq = _model(bits)
    codes = run_onnx(qdq, FEEDS, expose=["a.codes", "b.codes"])
    parts = [
        arithmetic.rescale_codes(codes[f"{n}.codes"], SCALES[n], ZEROS[n], SCALES["y"], 7, 0, 2**bits - 1)
        for n in "ab"
    ]

    result = LowerConcatPass()(qdq)

    assert result.modified
    assert "QLinearConcat" in ops(result.model)
    result.model.graph.opset_imports["com.microsoft"] = 1
    for level in LEVELS:
        found = run_onnx(result.model, FEEDS, level=level, expose=["y.codes"])["y.codes"]
        np.testing.assert_array_equal(found, np.concatenate(parts, axis=1), err_msg=level)


def test_a_float_input_is_left_alone() -> None:
    model = _model()
    next(n for n in model.graph if n.op_type == "Concat").replace_input_with(1, model.graph.inputs[1])

    assert not LowerConcatPass()(model).modified


def test_a_result_that_is_also_used_as_it_is_is_left_alone() -> None:
    model = _model()
    concat = next(n for n in model.graph if n.op_type == "Concat")
    model.graph.outputs.append(concat.outputs[0])

    assert not LowerConcatPass()(model).modified


def test_second_run_changes_nothing() -> None:
    model = LowerConcatPass()(_model()).model

    assert not LowerConcatPass()(model).modified


@pytest.mark.parametrize("bits", [5, 8])
def test_codes_of_one_scale_are_copied(bits: int) -> None:
    model = normal("net (float[N, 7] a, float[N, 7] b) => (float[N, 14] y) { y = Concat <axis = 1> (a, b) }")
    same = {"scale": float(np.float32(0.0131)), "zero_point": 12}
    entries = tuple(ActivationQuant(name=n, bits=bits if n == "y" else 8, **same) for n in "aby")
    qdq = quantize(model, Plan(weights=(), activations=entries))
    codes = run_onnx(qdq, FEEDS, expose=["a.codes", "b.codes"])

    result = LowerConcatPass()(qdq)

    assert result.modified
    assert "QLinearConcat" not in ops(result.model)
    joined = np.minimum(np.concatenate([codes["a.codes"], codes["b.codes"]], axis=1), 2**bits - 1)
    for level in LEVELS:
        found = run_onnx(result.model, FEEDS, level=level, expose=["y.codes"])["y.codes"]
        np.testing.assert_array_equal(found, joined, err_msg=level)
    assert not LowerConcatPass()(result.model).modified
