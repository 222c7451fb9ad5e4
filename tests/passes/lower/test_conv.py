from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx_ir as ir
import pytest
from compare import run_onnx
from graphs import quantized
from onnx_text import ops

from mpqtool.passes import arithmetic, metadata
from mpqtool.passes.lower.conv import LowerConvPass
from mpqtool.passes.values import array, set_array

X = np.random.default_rng(1).normal(size=(4, 2, 6, 6)).astype(np.float32)


def _model(activation: str = "y = Relu (c)", **options: object) -> ir.Model:
    rng = np.random.default_rng(0)
    text = f"""
    net (float[N, 2, 6, 6] x) => (float[N, 3, 6, 6] y) {{
        c = Conv <pads = [1, 1, 1, 1]> (x, w, b)
        {activation}
    }}
    """
    weights = {"w": rng.normal(size=(3, 2, 3, 3)), "b": rng.normal(size=3)}
    weights |= {"low": np.array(-0.5), "high": np.array(1.5)}
    return quantized(text, weights, {"x": X}, **options)  # type: ignore[arg-type]


def _value(model: ir.Model, name: str) -> np.ndarray:
    found = array(model.graph.initializers[name])
    assert found is not None
    return found


@pytest.mark.parametrize("activation", ["y = Relu (c)", "y = Clip (c, low, high)", "y = Identity (c)"])
@pytest.mark.parametrize("bits", [3, 8])
def test_codes_are_those_of_the_arithmetic(activation: str, bits: int) -> None:
    qdq = _model(activation, activation_bits=bits)
    x_codes = run_onnx(qdq, {"x": X}, expose=["x.codes"])["x.codes"].astype(np.int64)
    w, b = _value(qdq, "w.codes").astype(np.int64), _value(qdq, "b.codes")
    w_scale, x_scale = _value(qdq, "w.scale"), _value(qdq, "x.scale")
    name = next(
        str(v.name)
        for node in qdq.graph
        for v in node.outputs
        if str(v.name).endswith(".codes") and v.name != "x.codes"
    )
    y_scale, y_zero = (
        _value(qdq, name.replace("codes", "scale")),
        int(_value(qdq, name.replace("codes", "zero_point"))),
    )
    padded = np.pad(x_codes - int(_value(qdq, "x.zero_point")), [(0, 0), (0, 0), (1, 1), (1, 1)])
    windows = np.lib.stride_tricks.sliding_window_view(padded, (3, 3), axis=(2, 3))
    acc = np.einsum("nchwij,ocij->nohw", windows, w) + b[:, None, None]
    low = {"Relu": 0.0, "Clip": -0.5}.get(activation.split()[2], -np.inf)
    high = 1.5 if "Clip" in activation else np.inf
    clamp = [int(arithmetic.quantize(v, y_scale, y_zero, 0, 2**bits - 1)) for v in (low, high)]
    factor = arithmetic.multiplier(x_scale, w_scale, y_scale)[:, None, None]
    expected = arithmetic.requantize(acc, factor, y_zero, *clamp)

    result = LowerConvPass()(qdq)

    assert result.modified
    assert ops(result.model).count("QLinearConv") == 1
    assert "Conv" not in ops(result.model)
    found = run_onnx(result.model, {"x": X}, expose=[name])[name]
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize(
    ("bits", "clips"), [pytest.param(8, 0, id="uint8-saturates"), pytest.param(5, 1, id="below-8-bits")]
)
def test_relu_and_width_are_one_clip_at_most(bits: int, clips: int) -> None:
    model = LowerConvPass()(_model(activation_bits=bits)).model

    assert "Relu" not in ops(model)
    assert ops(model).count("Clip") == clips


def test_notes_say_weight_and_widths() -> None:
    model = LowerConvPass()(_model(weight_bits=3, activation_bits=5)).model
    conv = next(node for node in model.graph if node.op_type == "QLinearConv")
    clip = next(node for node in model.graph if node.op_type == "Clip")

    assert conv.metadata_props[metadata.WEIGHT] == "w"
    assert conv.metadata_props[metadata.WEIGHT_BITS] == "333"
    assert clip.metadata_props[metadata.BITS] == "5"


def _weight_zero_point(model: ir.Model) -> None:
    set_array(model.graph.initializers["w.zero_point"], np.full(3, 1, np.int8))


def _float_input(model: ir.Model) -> None:
    conv = next(node for node in model.graph if node.op_type == "Conv")
    conv.replace_input_with(0, model.graph.inputs[0])


def _float_weight(model: ir.Model) -> None:
    conv = next(node for node in model.graph if node.op_type == "Conv")
    value = ir.Value(name="real")
    set_array(value, np.zeros((3, 2, 3, 3), np.float32))
    model.graph.register_initializer(value)
    conv.replace_input_with(1, value)


def _second_user(model: ir.Model) -> None:
    conv = next(node for node in model.graph if node.op_type == "Conv")
    extra = ir.node("Neg", [conv.outputs[0]])
    extra.outputs[0].name = "negative"
    model.graph.append(extra)
    model.graph.outputs.append(extra.outputs[0])


def _computed_bias(model: ir.Model) -> None:
    conv = next(node for node in model.graph if node.op_type == "Conv")
    bias = ir.node("Neg", [conv.inputs[2]])
    model.graph.insert_before(conv, bias)
    conv.replace_input_with(2, bias.outputs[0])


def _too_large_a_bias(model: ir.Model) -> None:
    set_array(model.graph.initializers["b.codes"], np.full(3, 2**31 - 100, np.int32))


@pytest.mark.parametrize(
    "spoil",
    [_weight_zero_point, _float_input, _float_weight, _second_user, _computed_bias, _too_large_a_bias],
)
def test_is_left_alone(spoil: Callable[[ir.Model], None]) -> None:
    model = _model()
    spoil(model)
    before = ops(model)

    result = LowerConvPass()(model)

    assert not result.modified
    assert ops(result.model) == before


def test_second_run_changes_nothing() -> None:
    model = LowerConvPass()(_model()).model

    assert not LowerConvPass()(model).modified
