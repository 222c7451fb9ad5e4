"""FAT from a float file to a verified integer file."""

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
from mpqtool import run_fat
from mpqtool.errors import CheckpointError
from mpqtool.passes import arithmetic, pipelines
from mpqtool.passes.load import load_model
from mpqtool.passes.plan import Grid, Plan
from mpqtool.passes.values import array
from mpqtool.reporter import Reporter

_TEXT = """
net (float[N, 2, 6, 6] x) => (float[N, 3] y, float[N, 6, 6, 6] m) {
    c0 = Conv <pads = [1, 1, 1, 1]> (x, w0)
    n0 = BatchNormalization (c0, g0, b0, m0, v0)
    r0 = Relu (n0)
    c1 = Conv <pads = [1, 1, 1, 1], group = 4> (r0, w1, b1)
    s1 = Clip (c1, zero, six)
    c2 = Conv (s1, w2)
    a = Add (c2, r0)
    m = Conv (a, w3)
    p = GlobalAveragePool (a)
    f = Flatten (p)
    y = Gemm <transB = 1> (f, w4, b4)
}
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """A float file with two outputs, a depthwise layer and ReLU6, and labeled data beside it."""
    rng, made = np.random.default_rng(0), tmp_path_factory.mktemp("fat")
    weights = {
        "w0": rng.normal(size=(4, 2, 3, 3)) / 4, "w1": rng.normal(size=(4, 1, 3, 3)) / 3,
        "b1": np.array([0.1, 5.5, 0.1, -0.1]), "w2": rng.normal(size=(4, 4, 1, 1)) / 2,
        "w3": rng.normal(size=(6, 4, 1, 1)) / 2, "w4": rng.normal(size=(3, 4)), "b4": np.zeros(3),
        "g0": rng.uniform(0.5, 1.5, 4), "b0": 0.2 * rng.normal(size=4), "m0": 0.1 * rng.normal(size=4),
        "v0": rng.uniform(0.5, 1.5, 4), "zero": 0.0, "six": 6.0,
    }  # fmt: skip
    # Factors 1, 1 / 2, 10 and 1 / 3 for the median; ReLU6 cuts the second channel.
    largest = np.abs(weights["w1"]).max((1, 2, 3), keepdims=True)
    weights["w1"] *= np.array([0.5, 1, 0.05, 1.5]).reshape(-1, 1, 1, 1) / largest
    ir.save(parse(_TEXT, weights), made / "m.onnx")
    x = rng.normal(size=(120, 2, 6, 6)).astype(np.float32)
    np.savez(made / "m.npz", x=x, label=rng.integers(0, 3, 120))
    return made


def _quantize(
    folder: pathlib.Path, out: pathlib.Path, **options: Any
) -> tuple[dict[str, Any], Plan, list[str]]:
    stream = io.StringIO()
    given = {"bits": "W4A4", "epochs": 2, "batch_size": 16, "lr": 0.01, "target": "standard"}
    result = mpqtool.quantize(
        folder / "m.onnx", method="fat", out=out, reporter=Reporter(stream=stream), **given | options
    ).result
    assert result["verify"]["passed"]
    assert result["verify"]["codes_different"] == 0
    return result, Plan.load(out / "plan.json"), stream.getvalue().splitlines()


def test_thresholds_learn_and_weights_stay(folder: pathlib.Path, tmp_path: pathlib.Path) -> None:
    result, plan, said = _quantize(folder, tmp_path / "out")
    start, first, _ = _quantize(folder, tmp_path / "start", epochs=0)

    assert (result["method"], result["data"]["mode"]) == ("fat", "distill")
    assert result["metric"]["name"] == "sqnr_db"
    assert result["settings"]["bits"] == "W4A4"
    rows = result["history"]
    assert [row["epoch"] for row in rows] == [0, 1, 2]
    assert start["history"] == rows[:1]
    assert max(row["held_out"] for row in rows) > rows[0]["held_out"]
    assert plan != first
    assert {a.zero_point % 2 for a in plan.activations if a.zero_point is not None} == {0}
    (line,) = (text for text in said if text.startswith("depthwise"))
    assert "depthwise layers: 1 rescaled, 2 of 4 channels; 1 locked" in line
    # The weights are those of the file, rounded: folded, and the depthwise layer rescaled.
    folded = pipelines.normalize(load_model(folder / "m.onnx"), fold_batch_norm=True)
    qdq, _ = mpqtool.passes.quantize.extract(load_model(tmp_path / "out/model.qdq.onnx"))
    for entry in plan.weights:
        assert entry.grid is Grid.FULL
        weight, shipped = (array(model.graph.initializers[entry.name]) for model in (folded, qdq))
        assert weight is not None
        assert shipped is not None
        if entry.name not in ("w1", "w2"):
            codes = arithmetic.quantize_weight(weight, np.float32(entry.scale), entry.bits, entry.grid)
            np.testing.assert_array_equal(
                shipped, codes * np.float32(entry.scale).reshape(-1, *[1] * (weight.ndim - 1))
            )


def test_a_network_without_depthwise_layers(tmp_path: pathlib.Path, rng: np.random.Generator) -> None:
    text = "net (float[N, 3] x) => (float[N, 4] y) { t = MatMul (x, w) r = Relu (t) y = MatMul (r, v) }"
    ir.save(parse(text, {"w": rng.normal(size=(3, 5)), "v": rng.normal(size=(5, 4))}), tmp_path / "m.onnx")
    np.savez(tmp_path / "m.npz", x=rng.normal(size=(60, 3)).astype(np.float32))

    result, plan, said = _quantize(tmp_path, tmp_path / "out", all_layers=True, bits="W3A3", epochs=1)

    assert result["metric"]["name"] == "agreement"
    assert {b for w in plan.weights for b in w.bits} == {3}
    assert not any("depthwise" in line or "labels are" in line for line in said)


def test_epochs_by_default_are_800_batches(
    folder: pathlib.Path, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mpqtool.method_options.BATCHES", 13)
    result, _, said = _quantize(folder, tmp_path / "out", epochs=None)
    assert result["settings"]["epochs"] == 3  # of 82 samples: 13 * 16 / 82
    assert "labels are not used" not in said  # a warning has said so: outputs are no class logits


def test_a_run_is_resumed(folder: pathlib.Path, tmp_path: pathlib.Path) -> None:
    whole, plan, _ = _quantize(folder, tmp_path / "out")
    log = (tmp_path / "out/log.jsonl").read_text().splitlines()
    assert [json.loads(line)["event"] for line in log].count("epoch") == 2
    resumed, again, _ = _quantize(folder, tmp_path / "out", resume=True)
    assert (resumed["history"], again) == (whole["history"], plan)
    with pytest.raises(CheckpointError, match="--lr changed"):
        _quantize(folder, tmp_path / "out", resume=True, lr=0.02)


def test_a_clip_that_cuts_held_out_samples_locks_its_layer(
    folder: pathlib.Path, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As where the samples that maxima are told from are other ones."""
    monkeypatch.setattr(run_fat, "channel_maxima", lambda *_: {"s1": np.zeros(4, np.float32)})
    _, _, said = _quantize(folder, tmp_path / "out", epochs=0)
    assert any("with a Clip behind are not rescaled: it cuts held-out samples" in line for line in said)
