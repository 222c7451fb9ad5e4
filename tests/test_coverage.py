"""What a run says about the part of a network that stays float."""

from __future__ import annotations

import pathlib

import numpy as np
import onnx_ir as ir
import pytest
from graphs import quantized
from onnx_text import parse

from mpqtool.coverage import LoweredLayers, float_layers, lowered_layers, open_sizes, uncounted_tables
from mpqtool.passes import cost
from mpqtool.passes.pipelines import lower

_ROWS = [
    cost.Layer(name="a", op="Conv", macs=30, weights=10, kernels=1),
    cost.Layer(name="b", op="MatMul", macs=60, weights=20, kernels=1),
    cost.Layer(name="c", op="LSTM", macs=10, weights=10, kernels=1),
]


@pytest.mark.parametrize(
    ("quantized_names", "placed", "text"),
    [
        ("abc", "abc", ""),
        (
            "a",
            "a",
            "1 MatMul and 1 LSTM layers with 70.0% of the MACs and 75.0% of the weights stay float: "
            "no integer form yet",
        ),
        (
            "ab",
            "abc",
            "1 LSTM layer with 10.0% of the MACs and 25.0% of the weights stay float: not in the plan",
        ),
    ],
)
def test_float_layers_are_counted_by_operator(quantized_names: str, placed: str, text: str) -> None:
    assert float_layers(_ROWS, quantized=quantized_names, placed=placed) == text


def test_without_sizes_the_weights_are_what_counts() -> None:
    rows = [*_ROWS, cost.Layer(name="d", op="Conv", macs=None, weights=40, kernels=1)]
    text = float_layers(rows, quantized="abc", placed="abcd")
    assert text == "1 Conv layer with 50.0% of the weights stay float: not in the plan"


@pytest.mark.parametrize(
    ("shape", "expected"), [("n, 2, 8, 8", {}), ("n, 2, h, w", {"x": (5, 2, 8, 8)})], ids=["fixed", "open"]
)
def test_sizes_that_are_open(shape: str, expected: dict[str, tuple[int, ...]]) -> None:
    model = parse(f"net (float[{shape}] x) => (float[{shape}] y) {{ y = Relu(x) }}")
    assert open_sizes(model, {"x": np.zeros((5, 2, 8, 8), np.float32)}) == expected


def test_tables_are_named() -> None:
    model = parse(
        "net (int64[n, 5] x) => (float[n, 5, 4] y) { y = Gather(table, x) }", {"table": np.ones((30, 4))}
    )
    assert "'table', 120 weights that stay float" in uncounted_tables(model)
    assert uncounted_tables(parse("net (float[n] x) => (float[n] y) { y = Relu(x) }")) == ""


_TWO = """net (float[N, 2, 4, 4] x) => (float[N, 6, 4, 4] y) {
    c = Conv (x, w)
    r = Relu (c)
    y = Conv (r, v)
}"""


def test_layers_of_a_lowered_file(tmp_path: pathlib.Path, rng: np.random.Generator) -> None:
    weights = {"w": rng.normal(size=(2, 2, 1, 1)), "v": rng.normal(size=(6, 2, 1, 1))}
    qdq = quantized(_TWO, weights, {"x": rng.normal(size=(3, 2, 4, 4)).astype(np.float32)})
    ir.save(lower(qdq), tmp_path / "whole.onnx")
    whole = lowered_layers(tmp_path / "whole.onnx")
    assert (whole.integer, whole.float, whole.mac_share_integer, whole.islands) == (2, 0, 1.0, [])
    assert whole.lines() == ["2 of 2 layers compute in integers, 100.0% of the MACs"]
    assert not whole.is_poor

    first = next(node for node in qdq.graph if node.op_type == "Conv")
    first.replace_input_with(0, qdq.graph.inputs[0])  # now its input is float
    ir.save(lower(qdq), tmp_path / "part.onnx")
    part = lowered_layers(tmp_path / "part.onnx")
    assert (part.integer, part.float, part.mac_share_integer) == (1, 1, 0.75)
    reason = "its input is not quantized"
    assert [(island["op"], island["reason"]) for island in part.islands] == [("Conv", reason)]
    assert part.lines()[1] == f"float: Conv {first.name!r}: {reason}"


@pytest.mark.parametrize(
    ("integer", "real", "share", "poor"),
    [(0, 0, None, True), (0, 3, None, True), (2, 3, 0.6, False), (3, 2, 0.4, True), (3, 2, None, False)],
)
def test_less_than_half_is_poor(integer: int, real: int, share: float | None, poor: bool) -> None:
    layers = LoweredLayers(integer=integer, float=real, mac_share_integer=share, islands=[])
    assert layers.is_poor is poor


def test_a_reason_is_said_once() -> None:
    islands = [{"name": name, "op": "Conv", "reason": "it is odd"} for name in "abc"]
    layers = LoweredLayers(integer=0, float=3, mac_share_integer=None, islands=islands)
    assert layers.lines() == ["0 of 3 layers compute in integers", "float: Conv 'a' and 2 more: it is odd"]
