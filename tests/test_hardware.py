"""The shares of layers in the hardware term."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest
from graphs import normal
from numpy.typing import NDArray

from mpqtool import hardware
from mpqtool.errors import ModelError, OptionError, RuntimeFault
from mpqtool.hardware import LayerCost, layer_costs
from mpqtool.method_options import HARDWARE
from mpqtool.passes.place import place
from mpqtool.passes.plan import Grid, Plan

_TEXT = """
    net (float[N, 2, {size}, {size}] x) => (float[N, 5] y) {{
        c0 = Conv <pads = [1, 1, 1, 1]> (x, first)
        r0 = Relu (c0)
        p0 = MaxPool <kernel_shape = [2, 2], strides = [2, 2]> (r0)
        c1 = Conv <pads = [1, 1, 1, 1]> (p0, dense, b1)
        r1 = Relu (c1)
        c2 = Conv <pads = [1, 1, 1, 1], strides = [2, 2], group = 8> (r1, grouped)
        r2 = Relu (c2)
        f = Flatten (r2)
        h = Gemm <transB = 1> (f, hidden)
        r3 = Relu (h)
        y = Gemm <transB = 1> (r3, last)
    }}
"""
_SHAPES = {
    "first": (4, 2, 3, 3),
    "dense": (8, 4, 3, 3),
    "grouped": (8, 1, 3, 3),
    "hidden": (6, 32),
    "last": (5, 6),
}
_INPUTS = {"first": "x", "dense": "r0", "grouped": "r1", "hidden": "r2", "last": "r3"}
_MACS = {
    "first": 4 * 2 * 9 * 8 * 8,
    "dense": 8 * 4 * 9 * 4 * 4,
    "grouped": 8 * 1 * 9 * 2 * 2,
    "hidden": 6 * 32,
    "last": 5 * 6,
}
_MIDDLE = ("dense", "grouped", "hidden")
_SAMPLES = {"x": np.zeros((3, 2, 8, 8), np.float32)}


def _model(rng: np.random.Generator, size: str = "8") -> ir.Model:
    weights: dict[str, NDArray[Any]] = {name: rng.normal(size=shape) for name, shape in _SHAPES.items()}
    return normal(_TEXT.format(size=size), {**weights, "b1": rng.normal(size=8)})


def _plan(model: ir.Model) -> Plan:
    return place(model, weight_bits=4, activation_bits=4, grid=Grid.ODD, end_bits=8)


def _costs(
    model: ir.Model,
    kind: str,
    *,
    learned: Collection[str] = _MIDDLE,
    inputs: dict[str, NDArray[Any]] = _SAMPLES,
) -> list[LayerCost]:
    return layer_costs(model, _plan(model), kind, learned=learned, inputs=inputs)


@pytest.mark.parametrize("learned", [_MIDDLE, tuple(_SHAPES), ("grouped",)], ids=["middle", "all", "one"])
@pytest.mark.parametrize(
    ("kind", "amounts"), [("bitops", _MACS), ("size", {n: np.prod(s) for n, s in _SHAPES.items()})]
)
def test_shares_are_those_of_the_learned_layers(
    rng: np.random.Generator, kind: str, amounts: dict[str, int], learned: tuple[str, ...]
) -> None:
    found = _costs(_model(rng), kind, learned=learned)

    total = sum(amounts[name] for name in learned)
    assert [cost.weight for cost in found] == list(learned)
    assert [cost.share for cost in found] == pytest.approx([amounts[name] / total for name in learned])
    assert sum(cost.share for cost in found) == pytest.approx(1)


@pytest.mark.parametrize("kind", HARDWARE)
def test_inputs_are_the_owners_of_the_codes(rng: np.random.Generator, kind: str) -> None:
    """Behind MaxPool and Flatten, the value whose codes they move; that of a Relu is the one behind it."""
    found = _costs(_model(rng), kind, learned=tuple(_SHAPES))
    assert {cost.weight: cost.input for cost in found} == _INPUTS
    assert set(_INPUTS.values()) <= {entry.name for entry in _plan(_model(rng)).activations}


def test_an_input_that_is_not_in_the_plan_is_float(rng: np.random.Generator) -> None:
    model = _model(rng)
    plan = _plan(model)
    plan = plan.replaced(activations=[entry for entry in plan.activations if entry.name != "r1"])

    found = layer_costs(model, plan, "size", learned=_MIDDLE, inputs=_SAMPLES)

    assert [cost.input for cost in found] == ["r0", None, "r2"]


def test_latency_is_shared_by_time(rng: np.random.Generator) -> None:
    found = {cost.weight: cost.share for cost in _costs(_model(rng), "latency")}

    assert list(found) == list(_MIDDLE)
    assert sum(found.values()) == pytest.approx(1)
    assert min(found.values()) > 0


def test_times_of_layers_that_do_not_count_are_left_out(
    rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[dict[str, NDArray[Any]]] = []

    def times(model: ir.Model, feeds: dict[str, NDArray[Any]]) -> dict[str, tuple[float, ...]]:
        seen.append(feeds)
        return {"first": (9.0,), "dense": (1.0,), "grouped": (2.0,), "hidden": (1.0,), "last": (5.0,)}

    monkeypatch.setattr(hardware, "layer_times", times)

    assert [cost.share for cost in _costs(_model(rng), "latency")] == [0.25, 0.5, 0.25]
    assert [feeds["x"].shape for feeds in seen] == [(1, 2, 8, 8)]


def test_dead_layers_take_time_too() -> None:
    """A bias of 1 is more than int32 holds, in units of a scale that is made of weights of 1e-12."""
    text = """
        net (float[N, 2, 4, 4] x) => (float[N, 2, 4, 4] y) {
            a = Conv (x, zeros, one)
            b = Conv (a, tiny, one)
            y = Conv (b, last)
        }
    """
    shape = (2, 2, 1, 1)
    weights = {
        "zeros": np.zeros(shape),
        "tiny": np.full(shape, 1e-12),
        "last": np.ones(shape),
        "one": np.ones(2),
    }
    inputs = {"x": np.zeros((1, 2, 4, 4), np.float32)}

    found = _costs(normal(text, weights), "latency", learned=("zeros", "tiny"), inputs=inputs)

    assert [cost.weight for cost in found] == ["zeros", "tiny"]


@pytest.mark.parametrize("kind", ["bitops", "latency"])
def test_open_sizes_are_those_of_the_samples(rng: np.random.Generator, kind: str) -> None:
    open_, fixed = _costs(_model(rng, "S"), kind), _costs(_model(rng), kind)

    if kind == "bitops":
        assert open_ == fixed
    assert [cost.weight for cost in open_] == [cost.weight for cost in fixed]


def test_sizes_that_nobody_knows() -> None:
    text = """
        net (float[N, 1, 8, 8] x, int64[4] where) => (float[N, 1, h, w] y) {
            c = Conv (x, a)
            z = Resize (c, , , where)
            y = Conv (z, b)
        }
    """
    model = normal(text, {"a": np.ones((1, 1, 1, 1)), "b": np.ones((1, 1, 1, 1))})
    inputs = {"x": np.zeros((1, 1, 8, 8), np.float32), "where": np.array([1, 1, 4, 4])}

    with pytest.raises(ModelError, match=r"layer of 'b': .* not known. Use --hardware size"):
        _costs(model, "bitops", learned=("a", "b"), inputs=inputs)
    assert [cost.share for cost in _costs(model, "bitops", learned=("a",), inputs=inputs)] == [1.0]
    assert [cost.share for cost in _costs(model, "size", learned=("a", "b"), inputs=inputs)] == [0.5, 0.5]


_TWICE = """
    net (float[N, 2, 16, 16] x) => (float[N, 2, 2, 2] y) {
        a = Conv <pads = [1, 1, 1, 1]> (x, w)
        r = Relu (a)
        b = Conv <pads = [1, 1, 1, 1], strides = [8, 8]> (r, w)
        y = Conv (b, v)
    }
"""


def test_a_weight_that_is_used_twice(rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch) -> None:
    model = normal(_TWICE, {"w": rng.normal(size=(2, 2, 3, 3)), "v": rng.normal(size=(2, 2, 1, 1))})
    inputs = {"x": np.zeros((1, 2, 16, 16), np.float32)}

    def costs(kind: str) -> list[LayerCost]:
        return _costs(model, kind, learned=("w", "v"), inputs=inputs)

    assert [(cost.weight, cost.input) for cost in costs("latency")] == [("w", "x"), ("w", "r"), ("v", "b")]
    macs = [36 * 256, 36 * 4, 4 * 4]
    assert [cost.share for cost in costs("bitops")] == pytest.approx([n / sum(macs) for n in macs])
    assert [cost.share for cost in costs("size")] == pytest.approx([18 / 40, 18 / 40, 4 / 40])
    monkeypatch.setattr(hardware, "layer_times", lambda model, feeds: {"v": (2.0,), "w": (5.0, 1.0)})
    assert [cost.share for cost in costs("latency")] == [0.625, 0.125, 0.25]
    monkeypatch.setattr(hardware, "layer_times", lambda model, feeds: {"v": (2.0,), "w": (5.0,)})
    with pytest.raises(RuntimeFault, match="layers of 'w' take: 1 of 2 compute in integers"):
        costs("latency")


def test_an_unknown_kind(rng: np.random.Generator) -> None:
    with pytest.raises(OptionError, match="no hardware='energy'; allowed: bitops, size, latency"):
        _costs(_model(rng), "energy")
