"""LSQ and LSQ+ from a float file to a verified integer file, on a network with all that offsets meet."""

from __future__ import annotations

import io
import json
import math
import pathlib
import re
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest
from swish_network import swish_network, swish_split

import mpqtool
from mpqtool.passes.plan import Plan
from mpqtool.reporter import Reporter


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """A float file, and the data beside it."""
    rng = np.random.default_rng(0)
    made = tmp_path_factory.mktemp("swish")
    ir.save(swish_network(rng), made / "swish.onnx")
    split = swish_split(rng, 96)
    np.savez(made / "swish.npz", x=split.inputs["x"], label=split.labels)
    return made


def _quantize(folder: pathlib.Path, out: pathlib.Path, **options: Any) -> tuple[dict[str, Any], Plan]:
    given = {
        "method": "lsq+",
        "batch_size": 16,
        "epochs": 2,
        "lr": 0.02,
        "init": "minmax",
        "target": "standard",
    }
    result = mpqtool.quantize(folder / "swish.onnx", out=out, **given | options).result
    assert result == json.loads((out / "result.json").read_text())
    return result, Plan.load(out / "plan.json")


def _assert_verified(result: dict[str, Any]) -> None:
    assert result["verify"]["passed"]
    assert result["verify"]["codes_different"] == 0
    assert result["verify"]["codes_compared"] > 0
    assert result["nodes"]["islands"] == []


@pytest.mark.parametrize(
    ("config", "grid", "bits"),
    [
        ("1", "full", "W2A2"),
        ("2", "odd", "W4A4"),
        ("3", "full", "W4A4"),
        ("3", "odd", "W2A2"),
        ("4", "full", "W2A2"),
        ("4", "odd", "W4A4"),
        ("auto", "full", "W4A4"),
    ],
)
def test_what_is_trained_is_what_is_deployed(
    folder: pathlib.Path, tmp_path: pathlib.Path, config: str, grid: str, bits: str
) -> None:
    result, plan = _quantize(folder, tmp_path / "out", config=config, weight_grid=grid, bits=bits)

    _assert_verified(result)
    width = int(bits[1])
    # The first and the last layer keep 8 bits, and so does what only they read.
    assert [set(w.bits) for w in plan.weights] == [{8}, {width}, {width}, {width}, {8}]
    offsets = {a.name: a.offset for a in plan.activations if a.offset}
    if config in ("1", "2"):
        assert offsets == {}
    else:
        # A sum uses the value of the residual block too, so that its offset is snapped to whole codes.
        assert len(offsets) >= 2
        assert "s0" in offsets
        assert "s1" not in offsets


@pytest.mark.parametrize(
    ("options", "said"),
    [
        pytest.param({"bits": "W3A3"}, "1 of 3 activations .*: s1, as", id="auto-at-3-bits"),
        pytest.param({}, None, id="auto-at-4-bits"),
        pytest.param({"config": "4"}, "2 of 4 activations .*: s1, p, as", id="4"),
        pytest.param({"method": "lsq"}, None, id="none"),
    ],
)
def test_offsets_that_are_rounded_are_said(
    folder: pathlib.Path, tmp_path: pathlib.Path, options: dict[str, Any], said: str | None
) -> None:
    stream = io.StringIO()

    _, plan = _quantize(folder, tmp_path / "out", epochs=0, reporter=Reporter(stream=stream), **options)

    lines = [line for line in stream.getvalue().splitlines() if "rounded to whole codes" in line]
    assert len(lines) == (said is not None)
    if said is not None:
        assert re.match(f"offsets of {said} not only Conv and Gemm use them", lines[0])
        entry = plan.activation("s1")
        assert entry is not None
        assert entry.offset == 0


def test_lsq_learns_no_offset(folder: pathlib.Path, tmp_path: pathlib.Path) -> None:
    result, plan = _quantize(folder, tmp_path / "out", method="lsq", init="lsq", bits="W3A3", all_layers=True)
    _assert_verified(result)
    assert all(a.offset == 0 for a in plan.activations)
    assert {b for w in plan.weights for b in w.bits} == {3}


def test_one_scale_per_layer_is_folded_into_one_per_kernel(
    folder: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    result, plan = _quantize(folder, tmp_path / "out", weight_scales="layer", init="mse", optimizer="adamw")
    _assert_verified(result)
    assert len(set(plan.weights[0].scale or ())) > 1  # behind it is a BatchNormalization
    assert len(set(plan.weights[-1].scale or ())) == 1


@pytest.mark.parametrize(("epochs", "after"), [(0, 50.0), (1, 60.0), (1, 40.0)])
def test_few_epochs(
    folder: pathlib.Path, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch, epochs: int, after: float
) -> None:
    measured = iter((50.0, after)[: epochs + 1])  # without epochs there is nothing to measure anew
    monkeypatch.setattr("mpqtool.finish.held_out_metric", lambda *_: (lambda _: next(measured), math.nan))
    result, _ = _quantize(folder, tmp_path / "out", epochs=epochs)
    _assert_verified(result)
    *rows, integers = result["history"]
    assert [row["epoch"] for row in rows] == list(range(epochs + 1))
    assert integers["phase"] == "integers"
    assert (integers["held_out_before"], integers["held_out"]) == (50, after)
    assert integers["accepted"] is (after >= 50)
    assert {"epoch", "held_out", "weights_eff", "activations_eff"} <= set(result["history"][0])


def test_it_learns_from_the_float_model_alone(folder: pathlib.Path, tmp_path: pathlib.Path) -> None:
    result, _ = _quantize(folder, tmp_path / "out", distill=True, patience=1, accumulate=2, init="lsq+")
    _assert_verified(result)


def test_it_trains_in_narrow_floats(folder: pathlib.Path, tmp_path: pathlib.Path) -> None:
    result, _ = _quantize(folder, tmp_path / "out", mixed_precision="bf16", epochs=1)
    _assert_verified(result)


class _Killed(Reporter):
    """Ends the run when an epoch of so many has been trained, before it is saved."""

    def __init__(self, epochs: int) -> None:
        super().__init__(silent=True)
        self.left = epochs

    def event(self, name: str, **fields: Any) -> None:
        super().event(name, **fields)
        self.left -= name == "epoch"
        if self.left == 0:
            raise KeyboardInterrupt


LONG = {"epochs": 6, "epoch_samples": 64}  # five epochs of the method, two in integers


@pytest.fixture(scope="module")
def straight(folder: pathlib.Path) -> pathlib.Path:
    _quantize(folder, folder / "straight", **LONG)
    return folder / "straight"


@pytest.mark.parametrize("epoch", [2, 6, 7], ids=["search", "search-end", "in-integers"])
def test_a_killed_run_goes_on_to_the_same_file(
    folder: pathlib.Path, straight: pathlib.Path, tmp_path: pathlib.Path, epoch: int
) -> None:
    out = tmp_path / "out"
    with pytest.raises(KeyboardInterrupt):
        _quantize(folder, out, **LONG, reporter=_Killed(epoch))
    assert not (out / "model.int.onnx").exists()

    result, _ = _quantize(folder, out, **LONG, resume=True)

    assert [row.get("epoch") for row in result["history"]] == [*range(6), None]
    for name in ("plan.json", "model.qdq.onnx", "model.int.onnx"):
        assert (out / name).read_bytes() == (straight / name).read_bytes(), name
