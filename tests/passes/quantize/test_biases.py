from __future__ import annotations

import pathlib

import numpy as np
import onnx_ir as ir
import pytest
from compare import run_onnx
from graphs import calibrated, normal
from targets import network
from verified import Files

from mpqtool.importer import import_graph
from mpqtool.passes import pipelines
from mpqtool.passes.arithmetic import EXACT_BELOW
from mpqtool.passes.errors import PlanError
from mpqtool.passes.place import place
from mpqtool.passes.plan import Grid, Plan
from mpqtool.passes.quantize import (
    check_fits,
    complete,
    extract,
    with_fine_biases,
    with_room_for_shifts,
)
from mpqtool.passes.targets import TARGETS
from mpqtool.passes.values import array
from mpqtool.quantizers.attach import attach
from mpqtool.simulate import IntegerSimulation

_NET = "net (float[n,{c},4,4] x) => (float[n,32,4,4] y) {{ y = Conv(x, w, b) }}"


def _plan(*, bits: int, x_bits: int, grid: Grid = Grid.FULL, channels: int = 3) -> tuple[ir.Model, Plan]:
    rng = np.random.default_rng(0)
    weights = {"w": rng.normal(size=(32, channels, 1, 1)), "b": rng.normal(size=32)}
    model = normal(_NET.format(c=channels), weights)
    feeds = {"x": rng.normal(size=(2, channels, 4, 4)).astype(np.float32)}
    plan = calibrated(model, feeds, weight_bits=bits, grid=grid)
    narrow = [a.model_copy(update={"bits": x_bits, "zero_point": 0}) for a in plan.activations]
    return model, complete(model, plan.replaced(activations=narrow))


@pytest.mark.parametrize(
    ("bits", "x_bits", "grid", "shift"),
    [
        pytest.param(2, 2, Grid.FULL, 4, id="as-far-as-it-is-of-use"),
        pytest.param(4, 4, Grid.FULL, 4, id="down-to-minus-128"),
        pytest.param(5, 4, Grid.FULL, 3, id="int8"),
        pytest.param(4, 4, Grid.ODD, 3, id="odd-codes-are-twice-as-large"),
        pytest.param(4, 8, Grid.FULL, 3, id="no-pair-saturates"),
        pytest.param(8, 8, Grid.FULL, 0, id="8-bits-have-no-room"),
    ],
)
def test_codes_are_shifted_as_far_as_there_is_room(bits: int, x_bits: int, grid: Grid, shift: int) -> None:
    model, plan = _plan(bits=bits, x_bits=x_bits, grid=grid)
    assert [w.shift for w in with_fine_biases(model, plan).weights] == [shift]


def test_sums_stay_exact_in_float32() -> None:
    model, plan = _plan(bits=4, x_bits=8, channels=5000)
    (weight,) = with_fine_biases(model, plan).weights
    assert 0 < weight.shift < 3
    stored = array(pipelines.quantize(model, plan.replaced(weights=[weight])).graph.initializers["w.codes"])
    assert 255 * np.abs(stored.astype(int)).sum(axis=(1, 2, 3)).max() < EXACT_BELOW


def test_what_is_stored_is_read_back(tmp_path: pathlib.Path) -> None:
    model, plan = _plan(bits=3, x_bits=4)
    fine = with_fine_biases(model, plan)
    qdq = pipelines.quantize(model, fine)
    codes, coarse = (array(q.graph.initializers["w.codes"]) for q in (qdq, pipelines.quantize(model, plan)))
    np.testing.assert_array_equal(codes, coarse * 16)
    again, found = extract(qdq)
    assert found == fine
    np.testing.assert_array_equal(
        array(pipelines.quantize(again, found).graph.initializers["w.codes"]), codes
    )


def test_a_bias_loses_less() -> None:
    model, plan = _plan(bits=2, x_bits=2)
    bias, errors = array(model.graph.initializers["b"]), []
    for p in (plan, with_fine_biases(model, plan)):
        kept = run_onnx(pipelines.quantize(model, p), {"x": np.zeros((1, 3, 4, 4), np.float32)}, expose=["b"])
        errors.append(float(np.abs(kept["b"] - bias).max()))
    unit = plan.activations[0].scale * np.float32(max(plan.weights[0].scale or ()))
    assert errors[0] > unit / 32 >= errors[1]


@pytest.mark.parametrize("name", ["residual", "concat-clip"])
def test_shifted_codes_are_verified_for_every_target(
    tmp_path: pathlib.Path, rng: np.random.Generator, name: str
) -> None:
    model = network(rng, name)
    feeds = {"x": rng.normal(size=(5, 2, 8, 8)).astype(np.float32)}
    plan = calibrated(model, feeds, plan=place(model, weight_bits=3, activation_bits=4, grid=Grid.FULL))
    mixed = [
        w.model_copy(update={"bits": tuple(np.resize([2, 3, 4, 0], len(w.bits)).tolist())})
        for w in plan.weights
    ]
    plan = with_fine_biases(model, complete(model, plan.replaced(weights=mixed)))
    assert all(w.shift for w in plan.weights)
    ir.save(pipelines.quantize(model, plan), tmp_path / "a.qdq.onnx")
    simulation = IntegerSimulation(attach(import_graph(model), plan).eval()).on_arrays(model)
    for target in TARGETS:
        integer = pipelines.lower(ir.load(tmp_path / "a.qdq.onnx"), target=target)
        ir.save(integer, tmp_path / f"{target}.onnx")
        result = Files(tmp_path / "a.qdq.onnx", tmp_path / f"{target}.onnx", feeds).verify(
            simulate=simulation
        )
        assert result.passed, (target, result.first_different)
        assert result.codes_compared > result.codes_different == 0


def test_too_large_a_shift_is_refused_or_lowered() -> None:
    model, plan = _plan(bits=6, x_bits=8)
    wide = plan.replaced(weights=[plan.weights[0].model_copy(update={"shift": 3})])
    with pytest.raises(PlanError, match=r"'w' has codes up to \d+ with shift 3, allowed -128 to 127"):
        complete(model, wide)
    lowered = with_room_for_shifts(wide)
    assert [w.shift for w in lowered.weights] == [2]
    check_fits(model, lowered)
    complete(model, lowered)
    assert with_room_for_shifts(lowered) == lowered
