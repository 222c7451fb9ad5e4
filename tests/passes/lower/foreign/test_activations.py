from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest
from compare import assert_equivalent, run_onnx
from onnx_text import parse

from mpqtool.passes import metadata
from mpqtool.passes.lower.foreign import UnsignActivationsPass, code_shifts

X = {"x": np.linspace(-20, 20, 400, dtype=np.float32).reshape(100, 4)}


def _model(
    dtype: type[np.generic] = np.int8, *, zero: int = 3, low: int | None = None, high: int = 7, tail: str = ""
) -> ir.Model:
    clip = "" if low is None else "c = Clip (q, low, high)"
    codes = "q" if low is None else "c"
    weights = {
        "s": np.array(0.11, np.float32),
        "z": np.array(zero, dtype),
        "low": np.array(low or 0, dtype),
        "high": np.array(high, dtype),
        "t": np.array([0.1, 0.2, 0.3, 0.4], np.float32),
    }
    text = f"""
    net (float[N, 4] x) => (float[N, 4] y, float[N, 4] v{", int8[N, 4] q" if tail == "output" else ""}) {{
        q = QuantizeLinear (x, s, z)
        {clip}
        y = DequantizeLinear ({codes}, s, z)
        v = DequantizeLinear ({codes}, s, z)
        {"g = Identity (q)" if tail == "used" else ""}
    }}"""
    return parse(text, weights)


def _codes(model: ir.Model) -> np.ndarray:
    name = model.graph.node("") if False else next(n for n in model.graph if n.op_type == "DequantizeLinear")
    value = name.inputs[0]
    assert value is not None
    found: np.ndarray = run_onnx(model, X, expose=[str(value.name)])[str(value.name)]
    return found


@pytest.mark.parametrize(
    ("options", "shift", "bits"),
    [
        pytest.param({}, 128, None, id="int8"),
        pytest.param({"zero": -128}, 128, None, id="lowest-zero-point"),
        pytest.param({"low": -8}, 8, "4", id="clipped-to-4-bits"),
        pytest.param({"low": -7}, 7, "4", id="narrow"),
        pytest.param({"low": -127, "high": 127}, 127, None, id="narrow-8-bits"),
        pytest.param({"low": 5, "high": 20}, 128, None, id="zero-point-outside"),
        pytest.param({"dtype": np.uint8, "low": 0, "high": 15}, 0, "4", id="uint8-4-bits"),
    ],
)
def test_codes_are_uint8_and_real_values_the_same(
    options: dict[str, object], shift: int, bits: str | None
) -> None:
    model = _model(**options)  # type: ignore[arg-type]
    before, codes = run_onnx(model, X), _codes(model)
    (noted,) = code_shifts(model).values()

    result = UnsignActivationsPass()(model)

    assert result.modified
    assert_equivalent(before, run_onnx(result.model, X), rtol=0, atol=0)
    after = _codes(result.model)
    assert after.dtype == np.uint8
    np.testing.assert_array_equal(after, codes.astype(np.int16) + shift)
    assert noted == shift
    notes = {node.metadata_props.get(metadata.BITS) for node in result.model.graph if node.op_type != "Clip"}
    assert notes == {bits}
    assert not UnsignActivationsPass()(result.model).modified


@pytest.mark.parametrize(
    "model",
    [
        pytest.param(_model(np.uint8), id="uint8"),
        pytest.param(_model(np.int16), id="int16"),
        pytest.param(_model(tail="output"), id="codes-are-output"),
        pytest.param(_model(tail="used"), id="codes-used-as-they-are"),
    ],
)
def test_is_left_alone(model: ir.Model) -> None:
    assert not UnsignActivationsPass()(model).modified
