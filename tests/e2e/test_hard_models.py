"""Networks with something awkward in them, through the whole pipeline."""

from __future__ import annotations

import json
import pathlib

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

import mpqtool
from mpqtool.errors import TrainingError, VerificationError

EXAMPLES = pathlib.Path(__file__).parents[2] / "examples"
SHORT = {"epochs": 1, "epoch_samples": 256, "target_bits": "W4A8"}


@pytest.mark.parametrize("gamma", [0.0, 1e-9, -1e-9], ids=["dead", "nearly-dead", "nearly-dead-negative"])
def test_a_dead_channel_comes_through(tmp_path: pathlib.Path, gamma: float) -> None:
    model = onnx.load(EXAMPLES / "digits.onnx")
    (tensor,) = [t for t in model.graph.initializer if t.name == "block1.bn1.weight"]
    values = numpy_helper.to_array(tensor).copy()
    values[3] = gamma
    tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))
    onnx.save(model, tmp_path / "digits.onnx")
    result = mpqtool.quantize(
        tmp_path / "digits.onnx", method="impq", data=EXAMPLES / "digits.npz", out=tmp_path / "out", **SHORT,
        lr=1e-7,  # so that training does not bring the channel back to life
    ).result  # fmt: skip
    assert result["verify"]["passed"]
    assert result["metric"]["integer"] >= result["metric"]["float"] - 1.5


def test_a_failed_verification_leaves_no_integer_file(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One code of the simulation is changed: the run must end in an error, not in a file."""
    from mpqtool.simulate import IntegerSimulation

    honest = IntegerSimulation.on_arrays

    def on_arrays(self: IntegerSimulation, model: object) -> object:
        simulate = honest(self, model)

        def altered(feeds: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
            found = dict(simulate(feeds))
            name = next(n for n in found if n.startswith("relu_3"))
            found[name] = found[name].copy()
            found[name].flat[17] ^= 1
            return found

        return altered

    monkeypatch.setattr(IntegerSimulation, "on_arrays", on_arrays)
    out = tmp_path / "out"
    out.mkdir()
    (out / "model.int.onnx").write_text("of an earlier run")
    with pytest.raises(VerificationError, match=r"2 of \d+ codes differ .* first in 'relu_3"):
        mpqtool.quantize(EXAMPLES / "digits.onnx", method="impq", out=out, **SHORT)
    assert sorted(path.name for path in out.iterdir()) == [
        "checkpoint", "iterations", "log.jsonl", "model.qdq.onnx", "plan.json",
    ]  # fmt: skip


def test_a_run_that_fails_in_training_leaves_the_last_result(tmp_path: pathlib.Path) -> None:
    out = tmp_path / "out"
    mpqtool.quantize(EXAMPLES / "digits.onnx", method="impq", out=out, **SHORT)
    kept = ("plan.json", "model.qdq.onnx", "model.int.onnx", "result.json", "report.html")
    before = {name: (out / name).read_bytes() for name in kept}
    assert json.loads(before["result.json"])["verify"]["passed"]
    with pytest.raises(TrainingError, match=r"diverged.*smaller --lr"):
        mpqtool.quantize(EXAMPLES / "digits.onnx", method="impq", out=out, **SHORT, lr=1e9)
    assert {name: (out / name).read_bytes() for name in kept} == before


def test_no_labels_learn_from_the_float_model(tmp_path: pathlib.Path) -> None:
    data = dict(np.load(EXAMPLES / "digits.npz"))
    np.savez(
        tmp_path / "d.npz", **{name: array for name, array in data.items() if not name.startswith("label")}
    )
    result = mpqtool.quantize(
        EXAMPLES / "digits.onnx", method="impq", data=tmp_path / "d.npz", out=tmp_path / "out", **SHORT
    ).result
    assert result["data"]["mode"] == "distill"
    assert result["metric"]["name"] == "agreement"
    assert result["metric"]["float"] == 100
    assert result["metric"]["integer"] > 97
