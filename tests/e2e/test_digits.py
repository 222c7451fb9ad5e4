"""The main job on the shipped example: one command, a verified integer file, the same bytes every time."""

from __future__ import annotations

import json
import pathlib
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

import mpqtool
from mpqtool.errors import ModelError

EXAMPLES = pathlib.Path(__file__).parents[2] / "examples"
SHORT = ("--epochs", "1", "--target-bits", "W3.3A7")


def _start(out: pathlib.Path, *options: str) -> subprocess.Popen[str]:
    command = [
        sys.executable,
        "-P",
        "-m",
        "mpqtool",
        "quantize",
        str(EXAMPLES / "digits.onnx"),
    ]
    return subprocess.Popen(
        [*command, "-o", str(out), *options],
        cwd=out.parent, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


def _run(out: pathlib.Path, *options: str) -> dict[str, object]:
    process = _start(out, *options, "--json")
    stdout, stderr = process.communicate()
    assert process.returncode == 0, stderr
    return json.loads(stdout)


@pytest.fixture(scope="module")
def short_run(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    out = tmp_path_factory.mktemp("short") / "digits.mpq"
    _run(out, *SHORT)
    return out


@pytest.mark.slow
def test_default_run_meets_its_promises(tmp_path: pathlib.Path) -> None:
    out = tmp_path / "digits.mpq"
    result = _run(out)
    assert result == json.loads((out / "result.json").read_text())
    assert {path.name for path in out.iterdir()} == {
        "plan.json", "model.qdq.onnx", "model.int.onnx", "result.json", "report.html", "log.jsonl",
        "checkpoint", "iterations",
    }  # fmt: skip
    assert result["bits"]["weights_eff"] <= 3.0
    assert result["bits"]["activations_eff"] <= 6.0
    assert result["metric"]["integer"] >= result["metric"]["float"] - 1.0
    assert result["verify"]["passed"]
    assert result["verify"]["codes_different"] == 0
    assert result["verify"]["codes_compared"] >= 100_000
    assert result["bytes"]["weights_stored"] <= 1.10 * result["bytes"]["weights_owed"]
    assert result["nodes"]["islands"] == []
    assert result["bytes"]["integer"] == (out / "model.int.onnx").stat().st_size


def test_same_command_gives_the_same_bytes(short_run: pathlib.Path, tmp_path: pathlib.Path) -> None:
    again = tmp_path / "digits.mpq"
    _run(again, *SHORT)
    for name in ("plan.json", "model.qdq.onnx", "model.int.onnx"):
        assert (again / name).read_bytes() == (short_run / name).read_bytes(), name


def test_another_seed_gives_another_file(short_run: pathlib.Path, tmp_path: pathlib.Path) -> None:
    other = tmp_path / "digits.mpq"
    _run(other, *SHORT, "--seed", "1")
    assert (other / "model.int.onnx").read_bytes() != (short_run / "model.int.onnx").read_bytes()


@pytest.mark.parametrize("epochs_before_the_kill", [2, 4, 5], ids=["search", "search-end", "in-integers"])
def test_killed_run_resumes_to_the_same_file(
    short_run: pathlib.Path, tmp_path: pathlib.Path, epochs_before_the_kill: int
) -> None:
    out = tmp_path / "digits.mpq"
    process = _start(out, *SHORT)
    log = out / "log.jsonl"
    while process.poll() is None:
        if log.exists() and log.read_text().count('"event": "epoch"') >= epochs_before_the_kill:
            process.send_signal(signal.SIGKILL)
            break
        time.sleep(0.02)
    process.communicate()
    assert process.returncode == -signal.SIGKILL
    assert not (out / "model.int.onnx").exists()

    _run(out, *SHORT, "--resume")

    for name in ("plan.json", "model.qdq.onnx", "model.int.onnx"):
        assert (out / name).read_bytes() == (short_run / name).read_bytes(), name


def test_resume_with_other_options_is_refused(short_run: pathlib.Path) -> None:
    process = _start(short_run, *SHORT, "--lr", "0.02", "--resume")
    _, stderr = process.communicate()
    assert process.returncode == 1
    assert "--lr changed since it was begun" in stderr.strip().splitlines()[-1]
    assert (short_run / "model.int.onnx").exists()


def test_edited_plan_is_applied_without_training(short_run: pathlib.Path, tmp_path: pathlib.Path) -> None:
    plan = json.loads((short_run / "plan.json").read_text())
    first = plan["weights"][1]
    first["bits"], first["scale"] = [8] * len(first["bits"]), None
    edited = tmp_path / "plan.json"
    edited.write_text(json.dumps(plan))
    out = tmp_path / "edited.mpq"
    result = _run(out, "--plan", str(edited))
    assert result["verify"]["passed"]
    assert result["history"] == []
    layer = next(row for row in result["bits"]["layers"] if row["name"] == first["name"])
    assert layer["weight_bits"] == {"8": len(first["bits"])}
    written = json.loads((out / "plan.json").read_text())
    assert all(np.isfinite(written["weights"][1]["scale"]))


def test_a_run_s_own_plan_on_its_own_weights_gives_its_file_again(
    short_run: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    out = tmp_path / "again.mpq"
    mpqtool.quantize(
        short_run / "model.qdq.onnx", plan=short_run / "plan.json", out=out,
        data=EXAMPLES / "digits.npz",
    )  # fmt: skip
    for name in ("plan.json", "model.int.onnx"):
        assert (out / name).read_bytes() == (short_run / name).read_bytes(), name


def test_a_quantized_file_without_a_plan_is_refused(short_run: pathlib.Path) -> None:
    with pytest.raises(ModelError, match=r"is quantized already\. Give the float model"):
        mpqtool.quantize(short_run / "model.qdq.onnx", method="impq", data=EXAMPLES / "digits.npz")
