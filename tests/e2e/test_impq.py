"""IMPQ from a float file to verified integer files: points of the curve, and warm starts."""

from __future__ import annotations

import json
import pathlib
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest
from onnx_text import parse
from swish_network import swish_network, swish_split

import mpqtool
from mpqtool.errors import CheckpointError
from mpqtool.passes.plan import Grid, Plan

GIVEN = {"epochs": 1, "batch_size": 16, "target_bits": "W3A7", "target": "standard"}


_OFFSETS = {"bits": "W3A5", "all_layers": True, "config": "4"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """A float file, its data, and the run directory of a search."""
    rng = np.random.default_rng(0)
    made = tmp_path_factory.mktemp("impq")
    ir.save(swish_network(rng), made / "m.onnx")
    split = swish_split(rng, 80)
    np.savez(made / "m.npz", x=split.inputs["x"], label=split.labels)
    _quantize(made, made / "run")
    return made


def _quantize(
    folder: pathlib.Path, out: pathlib.Path, model: str = "m.onnx", **options: Any
) -> dict[str, Any]:
    given = {"max_drop": 100.0, **GIVEN, **options}
    return mpqtool.quantize(folder / model, out=out, data=folder / "m.npz", **given).result


def _copied(folder: pathlib.Path, out: pathlib.Path) -> pathlib.Path:
    """The run directory again, without the files that ``--take`` is to make."""
    for part in ("iterations", "checkpoint"):
        (out / part).mkdir(parents=True)
        for path in (folder / "run" / part).iterdir():
            (out / part / path.name).write_bytes(path.read_bytes())
    return out


def test_the_last_iteration_that_was_kept_is_what_the_run_gave(
    folder: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    run = folder / "run"
    history = json.loads((run / "result.json").read_text())["history"]
    kept = [row["iteration"] for row in history if row["accepted"] and "iteration" in row]
    assert sorted(int(path.stem) for path in (run / "iterations").iterdir()) == kept
    out = _copied(folder, tmp_path / "out")
    state = (out / "checkpoint" / "state.safetensors").read_bytes()

    result = _quantize(folder, out, take=kept[-1])

    for name in ("plan.json", "model.qdq.onnx", "model.int.onnx"):
        assert (out / name).read_bytes() == (run / name).read_bytes(), name
    assert result["history"] == history
    assert result["settings"]["take"] == kept[-1]
    # A search that was interrupted elsewhere can still go on.
    assert (out / "checkpoint" / "state.safetensors").read_bytes() == state
    assert len(list((out / "iterations").iterdir())) == len(kept)


def test_an_earlier_iteration_has_its_widths(folder: pathlib.Path, tmp_path: pathlib.Path) -> None:
    out = _copied(folder, tmp_path / "out")
    result = _quantize(folder, out, take=1)
    *_, row, last = result["history"]
    assert (row["iteration"], last["phase"]) == (1, "integers")
    assert 3.0 < result["bits"]["weights_eff"] < 4.0
    assert result["bits"]["weights_eff"] == pytest.approx(row["weights_eff"])
    assert result["verify"]["passed"]
    events = [json.loads(line)["event"] for line in (out / "log.jsonl").read_text().splitlines()]
    assert "reduce" not in events


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"take": 99}, r"Cannot take iteration 99 of .*run'.* Iterations that were kept: 0, 1, "),
        ({"take": 0, "lr": 0.5}, r"--lr changed since it was begun\. .* leave --take out"),
    ],
)
def test_what_was_not_kept_cannot_be_taken(
    folder: pathlib.Path, options: dict[str, Any], message: str
) -> None:
    before = (folder / "run" / "model.int.onnx").read_bytes()
    with pytest.raises(CheckpointError, match=message):
        _quantize(folder, folder / "run", **options)
    assert (folder / "run" / "model.int.onnx").read_bytes() == before


def test_where_nothing_was_kept_it_says_what_to_run(folder: pathlib.Path, tmp_path: pathlib.Path) -> None:
    with pytest.raises(CheckpointError, match="kept: none; run the search first, with the same -o"):
        _quantize(folder, tmp_path / "none", take=1)
    assert not (tmp_path / "none").exists()


def test_a_search_that_begins_anew_keeps_nothing_of_the_one_before(
    folder: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    out = _copied(folder, tmp_path / "out")
    _quantize(folder, out, target_bits="W4A8")
    assert [path.stem for path in (out / "iterations").iterdir()] == ["0"]


@pytest.mark.parametrize(
    ("method", "options", "grid", "from_qdq"),
    [
        pytest.param("lsq+", _OFFSETS, Grid.FULL, False, id="lsq+-float"),
        pytest.param("lsq+", _OFFSETS, Grid.FULL, True, id="lsq+-qdq"),
        pytest.param(
            "adaqat", {"start_bits": "W3A5", "granularity": "layer"}, Grid.ODD, True, id="adaqat-qdq"
        ),
        pytest.param("impq", {"target_bits": "W3.5A8"}, Grid.ODD, False, id="impq-float"),
    ],
)
def test_the_search_goes_on_from_the_plan_of_another_method(
    folder: pathlib.Path,
    tmp_path: pathlib.Path,
    method: str,
    options: dict[str, Any],
    grid: Grid,
    from_qdq: bool,
) -> None:
    first = folder / method
    if not first.exists():
        others = {"epochs": 1, "batch_size": 16, "target": "standard"}
        mpqtool.quantize(
            folder / "m.onnx", method=method, out=first, data=folder / "m.npz", **others, **options
        )
    plan = Plan.load(first / "plan.json")
    model = first / "model.qdq.onnx" if from_qdq else folder / "m.onnx"
    if method == "lsq+":
        assert any(entry.offset for entry in plan.activations)

    result = _quantize(
        folder,
        tmp_path / "out",
        str(model),
        method="impq",
        plan=first / "plan.json",
        target_bits="W2.5A4",
        step_groups=99,
    )

    assert result["verify"]["passed"]
    made = Plan.load(tmp_path / "out" / "plan.json")
    assert {entry.grid for entry in made.weights} == {grid}
    pairs = [
        (a, b)
        for x, y in zip(plan.weights, made.weights, strict=True)
        for a, b in zip(x.bits, y.bits, strict=True)
    ]
    assert all(before >= after for before, after in pairs)
    start = result["history"][0]
    weights = {
        row["name"]: row["weights"] / sum(row["weight_bits"].values()) for row in result["bits"]["layers"]
    }
    bits = sum(weights[w.name] * sum(w.bits) for w in plan.weights)
    assert start["weights_eff"] == pytest.approx(
        bits / sum(weights[w.name] * len(w.bits) for w in plan.weights)
    )
    assert result["bits"]["weights_eff"] <= 2.5 or grid is Grid.FULL
    if grid is Grid.FULL:
        assert min(after for _, after in pairs) == 2  # it has no codes of one bit


_WIDE = """
    net (float[N, 2, 6, 6] x) => (float[N, 3] y) {
        c = Conv <pads = [1, 1, 1, 1]> (x, w0)
        n = BatchNormalization (c, gamma, beta, mean, var)
        r = Relu (n)
        d = Conv (r, w1)
        e = Relu (d)
        p = GlobalAveragePool (e)
        f = Flatten (p)
        y = Gemm <transB = 1> (f, w2)
    }
"""


def test_kernels_that_are_pruned_leave_the_file(folder: pathlib.Path, tmp_path: pathlib.Path) -> None:
    rng, kernels = np.random.default_rng(0), 16
    numbers = {
        "w0": rng.normal(size=(kernels, 2, 3, 3)), "gamma": np.ones(kernels), "beta": np.ones(kernels),
        "mean": np.zeros(kernels), "var": np.full(kernels, 9.0), "w1": rng.normal(size=(8, kernels, 3, 3)),
        "w2": rng.normal(size=(3, 8)),
    }  # fmt: skip
    numbers["w0"][kernels // 2 :] *= 1e-3  # these go first
    ir.save(
        parse(_WIDE, {name: np.float32(value) for name, value in numbers.items()}), tmp_path / "wide.onnx"
    )
    options = {"prune": True, "start_bits": "W2A8", "target_bits": "W0.8A8", "step_groups": 8}
    result = _quantize(folder, tmp_path / "out", str(tmp_path / "wide.onnx"), **options)

    first = Plan.load(tmp_path / "out" / "plan.json").weight("w0")
    assert first is not None
    pruned = first.bits.count(0)
    assert result["verify"]["passed"]
    assert result["bits"]["weights_eff"] <= 0.8
    assert pruned >= kernels // 2
    (layer, *_) = result["bits"]["layers"]
    assert layer["weights_removed"] == kernels // 2 * 2 * 3 * 3  # of 16 kernels, 8 stay
    graph = ir.load(tmp_path / "out" / "model.int.onnx").graph
    shapes = [tuple(value.shape or ()) for value in graph.initializers.values()]
    assert (kernels // 2,) in shapes  # biases and scales
    assert not any(kernels in shape for shape in shapes if len(shape) > 1), shapes  # packed weights are flat
