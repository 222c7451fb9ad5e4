from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest
import torch
from compare import run_onnx
from graphs import calibrated, normal
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx_text import ops

from mpqtool.passes import arithmetic, metadata
from mpqtool.passes.lower import border
from mpqtool.passes.lower.build import REASON
from mpqtool.passes.pipelines import lower, quantize
from mpqtool.passes.plan import Grid
from mpqtool.passes.values import set_array
from mpqtool.runtime.reference import Reference
from mpqtool.runtime.session import LEVELS

X = np.random.default_rng(1).normal(size=(4, 2, 6, 6)).astype(np.float32)
_CONV = {1: torch.nn.functional.conv1d, 2: torch.nn.functional.conv2d, 3: torch.nn.functional.conv3d}


@settings(deadline=None, max_examples=60)
@given(st.data())
def test_sums_are_those_of_a_convolution_of_ones(data: st.DataObject) -> None:
    rank = data.draw(st.integers(1, 3))
    axes = st.lists(st.integers(1, 3), min_size=rank, max_size=rank)
    window, strides, dilations = data.draw(axes), data.draw(axes), data.draw(axes)
    pads = data.draw(st.lists(st.integers(0, 4), min_size=2 * rank, max_size=2 * rank))
    spans = [(k - 1) * d + 1 for k, d in zip(window, dilations, strict=True)]
    sizes = [max(data.draw(st.integers(1, 6)), spans[i] - pads[i] - pads[i + rank]) for i in range(rank)]
    codes = np.random.default_rng(0).integers(-127, 128, (3, 2, *window))

    sums, places = border.border_sums(codes, sizes, pads, strides, dilations)

    around = [side for axis in reversed(range(rank)) for side in (pads[axis], pads[axis + rank])]
    ones = torch.nn.functional.pad(torch.ones(1, 2, *sizes, dtype=torch.float64), around)
    expected = _CONV[rank](ones, torch.from_numpy(codes).double(), None, strides, 0, dilations)[0]
    for axis, place in enumerate(places, start=1):
        sums = sums.take(place, axis)
    np.testing.assert_array_equal(sums, expected.numpy())


def test_a_map_is_as_large_as_what_is_different_in_it() -> None:
    sums, places = border.border_sums(np.ones((5, 1, 3, 3), int), [100, 200], [1] * 4, [1, 1], [1, 1])

    assert sums.shape == (5, 3, 3)
    assert [len(place) for place in places] == [100, 200]


def _qdq(size: str = "6", weight_bits: int = 4) -> ir.Model:
    rng = np.random.default_rng(0)
    text = f"""
    net (float[N, 2, {size}, {size}] x) => (float[N, 3, M, K] y) {{
        c = Conv <pads = [1, 0, 2, 1], strides = [2, 1]> (x, w, b)
        y = Relu (c)
    }}
    """
    model = normal(text, {"w": rng.normal(size=(3, 2, 3, 3)), "b": rng.normal(size=3)})
    plan = calibrated(model, {"x": X}, weight_bits=weight_bits, activation_bits=6)
    x = plan.activations[0].model_copy(update={"offset": -0.0123, "padding": "zero"})
    return quantize(model, plan.replaced(activations=[x, *plan.activations[1:]]))


def test_both_forms_give_the_same_codes(monkeypatch: pytest.MonkeyPatch) -> None:
    in_float = lower(_qdq())
    monkeypatch.setattr(arithmetic, "EXACT_BELOW", 0)
    in_integers = lower(_qdq())

    assert "Conv" in ops(in_float)
    assert "ConvInteger" in ops(in_integers)
    for level in ("disabled", "all"):
        found = [
            run_onnx(m, {"x": X}, level=level, expose=["y.codes"])["y.codes"] for m in (in_float, in_integers)
        ]
        np.testing.assert_array_equal(*found)
    # 18 taps of 255 * 15 are far below 2**24.
    assert not any(metadata.ISLAND in node.metadata_props for node in in_float.graph)


@pytest.mark.parametrize("limit", [2**24, 0])
def test_the_weight_is_packed_in_both_forms(limit: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(arithmetic, "EXACT_BELOW", limit)
    rng = np.random.default_rng(0)
    text = "net (float[N, 8, 6, 6] x) => (float[N, 32, 6, 6] y) { y = Conv <pads = [1, 1, 1, 1]> (x, w) }"
    model = normal(text, {"w": rng.normal(size=(32, 8, 3, 3))})
    feeds = {"x": rng.normal(size=(2, 8, 6, 6)).astype(np.float32)}
    plan = calibrated(model, feeds, weight_bits=2)
    x = plan.activations[0].model_copy(update={"offset": -0.0123, "padding": "zero"})

    lowered = lower(quantize(model, plan.replaced(activations=[x, *plan.activations[1:]])))

    largest = max(value.const_value.nbytes for value in lowered.graph.initializers.values())  # type: ignore[union-attr]
    assert largest < 32 * 8 * 9  # bytes of the codes as int8
    reference = Reference(lowered)
    expected = reference.run(feeds)["y.codes"]
    for level in LEVELS:
        found = run_onnx(lowered, feeds, level=level, expose=["y.codes"])["y.codes"]
        np.testing.assert_array_equal(found, expected, err_msg=level)


def test_sums_that_float32_cannot_hold_are_made_of_integers() -> None:
    rng = np.random.default_rng(0)
    text = "net (float[N, 60, 4, 4] x) => (float[N, 2, 4, 4] y) { y = Conv <pads = [1, 1, 1, 1]> (x, w) }"
    model, feeds = (
        normal(text, {"w": rng.choice([-1.0, 1.0], (2, 60, 3, 3))}),
        {"x": np.ones((1, 60, 4, 4), np.float32)},
    )
    plan = calibrated(model, feeds, weight_bits=8, grid=Grid.SIGNED)
    x = plan.activations[0].model_copy(update={"offset": 0.01, "padding": "zero"})

    integer = lower(quantize(model, plan.replaced(activations=[x, *plan.activations[1:]])))

    assert 60 * 9 * 255 * 127 > 2**24
    assert "ConvInteger" in ops(integer)


def test_the_lowest_code_counts_with_its_magnitude() -> None:
    text = "net (float[N, 60, 4, 4] x) => (float[N, 1, 4, 4] y) { y = Conv <pads = [1, 1, 1, 1]> (x, w) }"
    halves = np.resize([-1.0, 1.0], (1, 60, 3, 3))
    model, feeds = normal(text, {"w": halves}), {"x": np.ones((1, 60, 4, 4), np.float32)}
    plan = calibrated(model, feeds, weight_bits=8, grid=Grid.FULL)
    x = plan.activations[0].model_copy(update={"offset": 0.01, "padding": "zero"})
    w = plan.weights[0].model_copy(update={"scale": (1 / 128,)})  # codes -128 and 127

    integer = lower(quantize(model, plan.replaced(weights=[w], activations=[x, *plan.activations[1:]])))

    assert 270 * 255 * 128 < 2**24 < 540 * 255 * 127  # either sign alone would fit float32
    assert "ConvInteger" in ops(integer)


def _computed_bias(model: ir.Model) -> None:
    conv = next(node for node in model.graph if node.op_type == "Conv")
    bias = ir.node("Neg", [conv.inputs[2]])
    bias.outputs[0].name = "negative"
    model.graph.insert_before(conv, bias)
    conv.replace_input_with(2, bias.outputs[0])


def _second_user(model: ir.Model) -> None:
    conv = next(node for node in model.graph if node.op_type == "Conv")
    extra = ir.node("Neg", [conv.outputs[0]])
    extra.outputs[0].name = "negative"
    model.graph.append(extra)
    model.graph.outputs.append(extra.outputs[0])


def _unknown_size(model: ir.Model) -> None:
    for value in [*model.graph.inputs, *(v for node in model.graph for v in node.outputs)]:
        if str(value.name).startswith("x"):
            value.shape = ir.Shape(["N", 2, "H", 6])


def _too_large_a_bias(model: ir.Model) -> None:
    set_array(model.graph.initializers["b.codes"], np.full(3, 100 - 2**31, np.int32))


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (_computed_bias, "its bias is computed"),
        (_second_user, "used before it is quantized"),
        (_unknown_size, "whose size is not static"),
        (_too_large_a_bias, "its accumulator can reach 214"),
    ],
)
def test_is_left_alone(spoil: Callable[[ir.Model], None], reason: str) -> None:
    model = _qdq()
    spoil(model)
    before = ops(model)

    result = border.LowerBorderPass()(model)

    assert not result.modified
    assert ops(result.model) == before
    conv = next(node for node in model.graph if node.op_type == "Conv")
    assert reason in conv.meta[REASON]


def test_a_size_that_is_not_static_is_an_island_with_its_reason() -> None:
    model = lower(_qdq(size="H"))
    notes = [node.metadata_props.get(metadata.ISLAND) for node in model.graph if node.op_type == "Conv"]

    assert notes == ["zeros are around an input with an offset, whose size is not static"]


def test_second_run_changes_nothing() -> None:
    model: Any = border.LowerBorderPass()(_qdq()).model

    assert not border.LowerBorderPass()(model).modified
