"""Budgets of post-training quantization: mixed widths, tensors that stay float, and refusals."""

from __future__ import annotations

import io
import json
import pathlib
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest
from onnx_text import parse

import mpqtool
from mpqtool import rundir
from mpqtool.errors import ModelError
from mpqtool.passes.plan import Plan
from mpqtool.reporter import Reporter

_TEXT = """
net (float[N, 2, 6, 6] x) => (float[N, 3, 6, 6] y) {
    c0 = Conv <pads = [1, 1, 1, 1]> (x, w0)
    r0 = Relu (c0)
    c1 = Conv <pads = [1, 1, 1, 1]> (r0, w1)
    r1 = Relu (c1)
    y = Conv (r1, w2)
}
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """A network without classes, one of whose channels is 3,000 times as large as those that matter."""
    rng, made = np.random.default_rng(0), tmp_path_factory.mktemp("budgets")
    weights = {
        "w0": rng.normal(size=(8, 2, 3, 3)) / 4,
        "w1": rng.normal(size=(8, 8, 3, 3)) / 8,
        "w2": rng.normal(size=(3, 8, 1, 1)) / 2,
    }
    ir.save(parse(_TEXT, weights), made / "even.onnx")
    weights["w0"][0] *= 3000
    weights["w1"][:, 0] /= 300_000
    ir.save(parse(_TEXT, weights), made / "uneven.onnx")
    for name in ("even", "uneven"):
        np.savez(made / f"{name}.npz", x=rng.normal(size=(100, 2, 6, 6)).astype(np.float32))
    return made


def _quantize(
    model: pathlib.Path, out: pathlib.Path, **options: Any
) -> tuple[dict[str, Any], Plan, list[str]]:
    stream = io.StringIO()
    result = mpqtool.quantize(
        model, method="ptq", out=out, reporter=Reporter(stream=stream), **{"target": "standard", **options}
    ).result
    assert result["verify"]["passed"]
    assert result["verify"]["codes_different"] == 0
    return result, Plan.load(out / "plan.json"), stream.getvalue().splitlines()


@pytest.mark.parametrize("ranges", ["mse", "percentile"])
def test_a_tensor_that_breaks_the_floor_stays_float(
    folder: pathlib.Path, tmp_path: pathlib.Path, ranges: str
) -> None:
    result, plan, said = _quantize(folder / "uneven.onnx", tmp_path / "out", ranges=ranges)

    assert list(plan.left_float) == ["r0"]
    assert "of the outputs noise" in plan.left_float["r0"]
    assert result["metric"]["integer"] > 20
    first, *_, last = result["points"]
    assert (first["left_float"], first["feasible"]) == (0, False)
    assert (last["left_float"], last["feasible"]) == (1, True)
    assert result["budgets"]["binding"] == "min_sqnr"
    assert result["budgets"]["feasible"]
    assert any("1 tensors stay float, r0: with all of them" in line for line in said)
    assert [island["op"] for island in result["nodes"]["islands"]].count("Conv") >= 1


def test_ranges_are_fitted_to_what_the_outputs_hang_on(folder: pathlib.Path, tmp_path: pathlib.Path) -> None:
    """The large channel hardly matters: clipped, the others have codes."""
    result, plan, said = _quantize(folder / "uneven.onnx", tmp_path / "out")

    assert plan.left_float == {}
    assert result["metric"]["integer"] > 20
    assert [(row["ranges"], row["feasible"]) for row in result["points"]] == [
        ("mse", False),
        ("fisher", True),
    ]
    assert result["budgets"]["binding"] is None
    assert any("ranges are fitted to what the outputs hang on" in line for line in said)


def test_nothing_is_written_where_nothing_holds_the_floor(
    folder: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    with pytest.raises(ModelError, match=r"hold the floor: .* dB.* on held-out data, at least 199.00 asked"):
        _quantize(folder / "even.onnx", tmp_path / "out", min_sqnr=199)
    assert not (tmp_path / "out" / rundir.INT).exists()


def test_a_limit_is_met_with_the_floor_held(folder: pathlib.Path, tmp_path: pathlib.Path) -> None:
    uniform, _, _ = _quantize(folder / "even.onnx", tmp_path / "uniform")
    limit = uniform["bytes"]["weights_owed"] * 3 // 4
    result, plan, said = _quantize(folder / "even.onnx", tmp_path / "out", target_size=limit, all_layers=True)

    assert result["bytes"]["weights_owed"] <= limit
    assert result["budgets"]["used"] == {"size": result["bytes"]["weights_owed"]}
    assert (result["budgets"]["binding"], result["budgets"]["feasible"]) == ("size", True)
    assert result["settings"]["bits"] == "mixed"
    assert min(min(entry.bits) for entry in plan.weights) < 8
    assert {entry.bits for entry in plan.activations} == {8}
    assert any(line.startswith("budgets: all are met; what binds is size") for line in said)


def test_both_kinds_of_widths_come_down_to_targets(folder: pathlib.Path, tmp_path: pathlib.Path) -> None:
    result, plan, _ = _quantize(
        folder / "even.onnx", tmp_path / "out", target_bits="W5A6", min_sqnr=5, all_layers=True
    )

    assert result["bits"]["weights_eff"] <= 5
    assert result["bits"]["activations_eff"] <= 6.7  # graph inputs keep 8
    used = result["budgets"]["used"]
    assert used["weights"] == pytest.approx(result["bits"]["weights_eff"])
    assert used["activations"] == pytest.approx(result["bits"]["activations_eff"])
    assert plan.left_float == {}


def test_what_came_closest_is_told(folder: pathlib.Path, tmp_path: pathlib.Path) -> None:
    result, _, said = _quantize(
        folder / "even.onnx", tmp_path / "out", target_bits="W2A8", min_sqnr=25, all_layers=True
    )

    assert result["bits"]["weights_eff"] == 2
    assert not result["budgets"]["feasible"]
    (line,) = [line for line in said if "budgets: no plan meets all" in line]
    assert "at least 25.00 asked" in line
    assert "the smallest that holds the floor has W" in line
    held = [row for row in result["points"] if row["held_out"] - 2 * row["held_out_error"] >= 25]
    smallest = min(held, key=lambda row: row["size"])
    assert f"W{smallest['weights']:.2f} A8.00, {smallest['size']:,} bytes" in line


def test_the_fewest_bits_that_hold_the_floor(folder: pathlib.Path, tmp_path: pathlib.Path) -> None:
    result, _, _ = _quantize(
        folder / "even.onnx", tmp_path / "out", bits="mixed", min_sqnr=20, all_layers=True
    )

    feasible = [row for row in result["points"] if row["feasible"]]
    others = [row for row in result["points"] if not row["feasible"]]
    assert min(row["weights"] for row in feasible) == pytest.approx(result["bits"]["weights_eff"])
    assert max(row["weights"] for row in others) < result["bits"]["weights_eff"] < 8
    log = (tmp_path / "out" / rundir.LOG).read_text(encoding="utf-8")
    assert sum(json.loads(line)["event"] == "point" for line in log.splitlines()) == len(result["points"])


@pytest.mark.parametrize(("share", "feasible"), [(2.0, True), (0.5, False)])
def test_what_a_plan_costs_is_held_against_the_limits(
    share: float, feasible: bool, folder: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    first, _, _ = _quantize(folder / "even.onnx", tmp_path / "first", bits="W4A8")
    owed, stream = first["bytes"]["weights_owed"], io.StringIO()
    limit = round(share * owed)
    result = mpqtool.quantize(
        folder / "even.onnx", plan=tmp_path / "first" / rundir.PLAN, target_size=limit,
        out=tmp_path / "again", target="standard", reporter=Reporter(stream=stream),
    ).result  # fmt: skip

    assert result["method"] == "plan"
    assert result["budgets"] == {
        "limits": {"size": limit}, "used": {"size": owed}, "floor": None, "held_out": None,
        "binding": "size", "feasible": feasible,
    }  # fmt: skip
    words = f"budgets: exceeded are size at {owed:,} bytes, {limit:g} asked"
    assert (words in stream.getvalue()) is not feasible


def test_accuracy_is_that_of_the_integer_file_on_held_out_data(
    folder: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    metric = tmp_path / "own.py"
    metric.write_text(
        "def closeness(outputs, reference, labels):\n"
        "    return 1 - float(abs(outputs[0] - reference[0]).max())\n"
    )
    _quantize(folder / "even.onnx", tmp_path / "first")
    for max_drop, feasible in ((100.0, True), (0.0, False)):
        stream = io.StringIO()
        result = mpqtool.quantize(
            folder / "even.onnx", plan=tmp_path / "first" / rundir.PLAN, max_drop=max_drop,
            metric=f"{metric}:closeness", out=tmp_path / "again", target="standard",
            reporter=Reporter(stream=stream),
        ).result  # fmt: skip

        budgets = result["budgets"]
        assert 0 < budgets["held_out"] < 1
        assert budgets["floor"] == 1 - max_drop
        assert (budgets["limits"], budgets["binding"], budgets["feasible"]) == ({}, "max_drop", feasible)
        assert ("on held-out data, at least 1.00 asked" in stream.getvalue()) is not feasible
