from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx_ir as ir
import pytest
from compare import assert_equivalent, run_onnx
from graphs import quantized
from onnx_text import ops

from mpqtool.passes.lower.move import LowerMovePass
from mpqtool.passes.values import set_array
from mpqtool.runtime.session import LEVELS

X = np.random.default_rng(0).normal(size=(3, 2, 4, 4)).astype(np.float32)

ODD = np.random.default_rng(1).normal(size=(3, 2, 5, 4)).astype(np.float32)
FLOAT_POOL = ["Cast", "MaxPool", "Cast"]


def _model(move: str, *, bits: int = 8) -> ir.Model:
    """The codes of a Conv, moved, and used by a Conv."""
    rng = np.random.default_rng(0)
    text = f"""
    net (float[N, 2, 4, 4] x) => (float[N, 2, H, W] y) {{
        c = Conv (x, w)
        m = {move}
        y = Conv (m, v)
    }}
    """
    weights = {
        "w": rng.normal(size=(2, 2, 1, 1)),
        "v": rng.normal(size=(2, 2, 1, 1)),
        "shape": np.array([0, 2, 8, 2], np.int64),
        "axes": np.array([4], np.int64),
        "low": np.array(-0.25),
        "high": np.array(0.5),
    }
    return quantized(text, weights, {"x": X}, activation_bits=bits)


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize(
    "move",
    [
        "MaxPool <kernel_shape = [2, 2], strides = [2, 2], pads = [1, 0, 0, 1]> (c)",
        "Reshape (c, shape)",
        "Transpose <perm = [0, 1, 3, 2]> (c)",
    ],
)
def test_works_on_the_codes(move: str, bits: int) -> None:
    before = run_onnx(_model(move, bits=bits), {"x": X}, expose=["c.codes", "m.codes"])

    result = LowerMovePass()(_model(move, bits=bits))

    assert result.modified
    moved = next(node for node in result.model.graph if node.op_type == move.split()[0])
    assert moved.outputs[0].dtype == ir.DataType.UINT8
    after = run_onnx(result.model, {"x": X}, expose=["c.codes", "m.codes"])
    assert_equivalent(before, after, rtol=0, atol=0)


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize(
    ("move", "op"), [("Relu (p)", "Clip"), ("Clip (p, low, high)", "Clip"), ("Clip (p)", "Identity")]
)
def test_bounds_are_bounds_of_the_codes(move: str, op: str, bits: int) -> None:
    """Behind a MaxPool they belong to no operator before them."""

    def model() -> ir.Model:
        rng = np.random.default_rng(0)
        text = f"""
        net (float[N, 2, 4, 4] x) => (float[N, 2, H, W] y) {{
            c = Conv (x, w)
            p = MaxPool <kernel_shape = [2, 2]> (c)
            m = {move}
            y = Conv (m, v)
        }}
        """
        weights = {name: rng.normal(size=(2, 2, 1, 1)) for name in "wv"}
        weights |= {"low": np.array(-0.25), "high": np.array(0.5)}
        return quantized(text, weights, {"x": X}, activation_bits=bits)

    before = run_onnx(model(), {"x": X}, expose=["p.codes", "m.codes"])

    result = LowerMovePass()(model())

    made = next(node for node in result.model.graph for value in node.outputs if value.name == "m.codes")
    assert made.op_type == op
    after = run_onnx(result.model, {"x": X}, expose=["p.codes", "m.codes"])
    assert_equivalent(before, after, rtol=0, atol=0)


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize(
    ("text", "made"),
    [
        pytest.param("c = Conv (x, w)  m = MaxPool {} (c)  y = Conv (m, v)", ["MaxPool"], id="between"),
        pytest.param("c = Conv (x, w)  m = MaxPool {} (c)  y = GlobalAveragePool (m)", FLOAT_POOL, id="last"),
        pytest.param("m = MaxPool {} (x)  y = Conv (m, v)", FLOAT_POOL, id="first"),
    ],
)
def test_max_pool_is_of_codes_where_convolutions_hand_on_their_layout(
    text: str, made: list[str], bits: int
) -> None:
    def model() -> ir.Model:
        rng = np.random.default_rng(0)
        pool = "<kernel_shape = [3, 3], strides = [2, 2], pads = [1, 0, 0, 1], ceil_mode = 1>"
        weights = {name: rng.normal(size=(2, 2, 1, 1)) for name in "wv"}
        body = text.format(pool)
        return quantized(
            f"net (float[N, 2, 5, 4] x) => (float[N, 2, H, W] y) {{ {body} }}",
            weights, {"x": ODD}, activation_bits=bits,
        )  # fmt: skip

    before = run_onnx(model(), {"x": ODD}, expose=["m.codes"])

    result = LowerMovePass()(model())

    found = ops(result.model)
    assert [op for op in found if op in FLOAT_POOL] == made
    for level in LEVELS:
        after = run_onnx(result.model, {"x": ODD}, level=level, expose=["m.codes"])
        np.testing.assert_array_equal(after["m.codes"], before["m.codes"])


def _other_scale(model: ir.Model) -> None:
    value = ir.Value(name="other")
    set_array(value, np.array(0.5, np.float32))
    model.graph.register_initializer(value)
    quantize = next(node for node in model.graph if node.name == "m.codes")
    quantize.replace_input_with(1, value)


def _float_input(model: ir.Model) -> None:
    move = next(node for node in model.graph if node.op_type == "MaxPool")
    move.replace_input_with(0, model.graph.inputs[0])


def _indices(model: ir.Model) -> None:
    move = next(node for node in model.graph if node.op_type == "MaxPool")
    move.resize_outputs(2)
    move.outputs[1].name = "indices"
    use = ir.node("Neg", [move.outputs[1]])
    use.outputs[0].name = "negative"
    model.graph.append(use)
    model.graph.outputs.append(use.outputs[0])


def _other_padding(model: ir.Model) -> None:
    _becomes(model, "Pad", {"pads": np.zeros(8, np.int64), "value": np.float32(1)})


def _new_values(model: ir.Model) -> None:
    _becomes(model, "Resize", {"roi": np.zeros(0, np.float32), "scales": np.ones(4, np.float32)})
    next(node for node in model.graph if node.op_type == "Resize").attributes["mode"] = ir.AttrString(
        "mode", "linear"
    )


def _real_part(model: ir.Model) -> None:
    _becomes(model, "Split", {"sizes": np.array([1, 1], np.int64)})
    split = next(node for node in model.graph if node.op_type == "Split")
    split.resize_outputs(2)
    split.outputs[1].name = "part"
    model.graph.outputs.append(split.outputs[1])


def _becomes(model: ir.Model, op: str, inputs: dict[str, np.ndarray]) -> None:
    """Make another operator of the MaxPool."""
    node = next(node for node in model.graph if node.op_type == "MaxPool")
    node.op_type = op
    node.attributes.clear()
    node.resize_inputs(1 + len(inputs))
    for index, (name, numbers) in enumerate(inputs.items(), 1):
        value = ir.Value(name=name)
        set_array(value, numbers)
        model.graph.register_initializer(value)
        node.replace_input_with(index, value)


@pytest.mark.parametrize(
    "spoil", [_other_scale, _float_input, _indices, _other_padding, _new_values, _real_part]
)
def test_is_left_alone(spoil: Callable[[ir.Model], None]) -> None:
    model = _model("MaxPool <kernel_shape = [2, 2]> (c)")
    spoil(model)
    before = ops(model)

    result = LowerMovePass()(model)

    assert not result.modified
    assert ops(result.model) == before


def test_second_run_changes_nothing() -> None:
    model = LowerMovePass()(_model("MaxPool <kernel_shape = [2, 2]> (c)")).model

    assert not LowerMovePass()(model).modified
