"""What a run is measured by, and learns by."""

from __future__ import annotations

import io
import json
import pathlib
import re
import shutil
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest
from click.testing import CliRunner
from onnx_text import parse

from mpqtool.batch import relative_error, task_loss
from mpqtool.checkpoint import Checkpoint
from mpqtool.cli import cli
from mpqtool.errors import CheckpointError, OptionError
from mpqtool.job import Job, prepare
from mpqtool.options import QuantizeOptions
from mpqtool.reporter import Reporter
from mpqtool.run_trainer import held_out_metric, make_trainer
from mpqtool.runtime.predict import predict

ROOT = pathlib.Path(__file__).parents[1]
QUALITY = """
import numpy as np, torch

def near(outputs, reference, labels):
    assert outputs[0].shape == labels.shape == reference[0].shape
    return 100 - float(np.abs(outputs[0] - labels).mean())

def distance(outputs, teacher, labels):
    assert teacher is None
    return torch.nn.functional.l1_loss(outputs[0], labels)

def alike(outputs, teacher, labels):
    return torch.nn.functional.l1_loss(outputs[0], teacher[0])
"""
POINTS = (
    "net (float[N, 3] x) => (float[N, 2] y) { h = Gemm <transB = 1> (x, w) r = Relu (h) y = MatMul (r, v) }"
)
MAPS = POINTS.replace("float[N, 2] y", "float[N, 2, 1] y").replace(
    "y = MatMul (r, v)", "m = MatMul (r, v) y = Unsqueeze (m, a)"
)


@pytest.fixture
def quality(tmp_path: pathlib.Path) -> str:
    (tmp_path / "quality.py").write_text(QUALITY)
    return str(tmp_path / "quality.py")


def _save(folder: pathlib.Path, label: Any, text: str = POINTS) -> pathlib.Path:
    rng = np.random.default_rng(0)
    arrays = {
        "w": rng.normal(size=(8, 3)).astype(np.float32),
        "v": rng.normal(size=(8, 2)).astype(np.float32),
    }
    if "Unsqueeze" in text:
        arrays["a"] = np.array([2])
    ir.save(parse(text, arrays), folder / "m.onnx")
    labels = {} if label is None else {"label": label(rng)}
    np.savez(folder / "m.npz", x=rng.normal(size=(100, 3)).astype(np.float32), **labels)
    return folder / "m.onnx"


def _numbers(rng: np.random.Generator) -> np.ndarray:
    return rng.normal(size=(100, 2))


def _classes(rng: np.random.Generator) -> np.ndarray:
    return rng.integers(0, 2, size=100)


def _prepared(path: pathlib.Path, **options: Any) -> tuple[Job, str]:
    stream = io.StringIO()
    return prepare(path, QuantizeOptions(out=str(path.parent / "o"), **options), Reporter(stream=stream)), (
        stream.getvalue()
    )


def test_numbers_as_labels_go_to_both_functions(tmp_path: pathlib.Path, quality: str) -> None:
    path, out = _save(tmp_path, _numbers), tmp_path / "out"
    given = {"metric": f"{quality}:near", "loss": f"{quality}:distance"}
    flags = [text for name, value in given.items() for text in (f"--{name}", value)]
    arguments = ["quantize", path, "--method", "lsq", "--epochs", "2", "--all-layers", "-o", out, *flags]
    ran = CliRunner().invoke(cli, list(map(str, arguments)))
    assert ran.exit_code == 0, ran.stderr
    result = json.loads((out / "result.json").read_text())
    metric = result["metric"]
    assert metric.pop("name") == given["metric"]
    assert all(90 < value < 100 for value in metric.values())
    assert result["data"]["mode"] == "labels"
    assert f"{given['metric']} float" in ran.stdout
    assert "%" not in ran.stdout.splitlines()[0]
    assert re.search(rf"{metric['float']:.2f}\b", ran.stdout)
    page = (out / "report.html").read_text()
    assert f"{given['metric']}, integer file" in page
    assert f"against float ({metric['float']:.2f})" in page
    rows = [row["held_out"] for row in result["history"]]
    assert all(90 < value < 100 for value in rows)


def test_what_a_metric_measures_is_held_out_and_the_teacher_takes_the_place_of_labels(
    tmp_path: pathlib.Path, quality: str
) -> None:
    job, said = _prepared(_save(tmp_path, _numbers), metric=f"{quality}:near")
    assert "labels: not class indices; they go to the metric alone" in said
    assert (job.mode, job.has_lesson) == ("distill", False)
    trainer = make_trainer(job, job.tuning)
    assert not trainer.labeled
    assert trainer.teacher is not None
    measure, of_float = held_out_metric(job, trainer)
    assert 90 < of_float < 100
    from mpqtool.importer import import_graph

    assert measure(import_graph(job.folded)) == pytest.approx(of_float, abs=1e-4)  # float sums
    assert job.test_score(job.float_outputs) != of_float


def test_classes_stay_classes_beside_a_function(tmp_path: pathlib.Path, quality: str) -> None:
    (tmp_path / "own.py").write_text("def own(outputs, reference, labels):\n    return float(labels.sum())\n")
    job, said = _prepared(_save(tmp_path, _classes), metric=f"{tmp_path}/own.py:own")
    assert (job.mode, job.data.class_labels, job.loss, said) == ("labels", True, task_loss, said)
    assert job.test_score(job.float_outputs) == job.data.test.labels.sum()  # type: ignore[union-attr]


def test_a_loss_of_numbers_leaves_the_metric_to_the_float_model(tmp_path: pathlib.Path, quality: str) -> None:
    job, said = _prepared(_save(tmp_path, _numbers, MAPS), loss=f"{quality}:alike", distill=True)
    assert job.metric == "sqnr_db"
    assert "they go to the loss alone" in said
    assert (job.mode, make_trainer(job, job.tuning).labeled) == ("distill", True)


def test_labels_of_a_model_without_classes_are_dropped_and_the_way_out_is_named(
    tmp_path: pathlib.Path,
) -> None:
    job, said = _prepared(_save(tmp_path, _classes, MAPS))
    assert job.data.train.labels is None
    assert "the labels are not used" in said
    assert "--metric and --loss" in said


def test_numbers_that_look_like_classes(tmp_path: pathlib.Path) -> None:
    path = _save(tmp_path, None)
    job, said = _prepared(path)
    assert (job.metric, job.loss) == ("agreement", task_loss)
    assert "if they are none, give `quantize` --metric sqnr_db" in said
    job, said = _prepared(path, metric="sqnr_db")
    assert (job.metric, job.loss) == ("sqnr_db", relative_error)
    assert "class logits" not in said


@pytest.mark.parametrize(
    ("text", "label", "metric", "message"),
    [
        (POINTS, None, "top1", "metric 'top1' needs class labels, and the data has none; choose agreement"),
        (
            MAPS,
            None,
            "agreement",
            r"needs one output of shape \(batch, classes\), .* gives N x 2 x 1; choose",
        ),
        (
            POINTS,
            None,
            "top5",
            "metric must be top1, agreement, sqnr_db, package.module:callable or .* 'top5'",
        ),
        (POINTS, None, "gone.py:f", "No such file: 'gone.py', wanted for 'gone.py:f'"),
    ],
)
def test_metrics_that_cannot_be_measured(
    tmp_path: pathlib.Path, text: str, label: Any, metric: str, message: str
) -> None:
    with pytest.raises(OptionError, match=message):
        _prepared(_save(tmp_path, label, text), metric=metric)


def test_functions_are_looked_for_before_anything_else(tmp_path: pathlib.Path) -> None:
    with pytest.raises(OptionError, match="Cannot import 'nowhere'"):
        _prepared(tmp_path / "none.onnx", loss="nowhere:f")


def test_a_run_does_not_go_on_with_another_function(tmp_path: pathlib.Path, quality: str) -> None:
    path, spec = _save(tmp_path, _numbers), f"{quality}:near"
    _prepared(path, metric=spec)[0].save("search", Checkpoint({}, {"epoch": 1}))
    assert _prepared(path, metric=spec, resume=True)[0].checkpoint is not None
    with pytest.raises(CheckpointError, match="--metric, --loss changed"):
        _prepared(path, resume=True, metric="sqnr_db", loss=f"{quality}:distance")


def test_the_example_of_the_readme_runs(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (code,) = re.findall(
        r"^```python\n# quality.py\n(.*?)^```", (ROOT / "README.md").read_text(), re.S | re.M
    )
    (tmp_path / "quality.py").write_text(code)
    shutil.copytree(ROOT / "examples", tmp_path / "examples")
    monkeypatch.chdir(tmp_path)
    job, _ = _prepared(
        pathlib.Path("examples/digits.onnx"), metric="quality.py:top2", loss="quality.py:smoothed"
    )
    found = job.test_score(job.float_outputs)
    assert found is not None
    assert 99 < found <= 100


@pytest.mark.parametrize("method", ["ptq", "fat --epochs 1"])
def test_methods_that_do_not_train_weights_decide_by_it_too(
    tmp_path: pathlib.Path, quality: str, method: str
) -> None:
    path, out, spec = _save(tmp_path, _numbers), tmp_path / "out", f"{quality}:near"
    arguments = ["quantize", path, "--method", *method.split(), "--metric", spec, "-o", out]
    ran = CliRunner().invoke(cli, list(map(str, arguments)))
    assert ran.exit_code == 0, ran.stderr
    result = json.loads((out / "result.json").read_text())
    assert result["metric"]["name"] == spec
    rows = [*result["history"], *result["points"]]
    assert rows
    assert all(90 < row["held_out"] < 100 for row in rows)
    if method == "ptq":
        job, _ = _prepared(path, metric=spec, method="ptq")
        outputs = predict(job.folded, job.held_out.inputs)
        exact = job.measure(outputs, outputs, job.held_out.labels)
        assert result["budgets"]["floor"] == pytest.approx(exact - 1, abs=1e-6)  # --max-drop in its unit
