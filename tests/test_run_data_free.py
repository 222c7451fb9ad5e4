"""A run without data: what it is given instead, and what it does not claim."""

from __future__ import annotations

import io
import json
import pathlib
import re
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest
from click.testing import CliRunner
from onnx_text import parse

import mpqtool
from mpqtool import run_data_free
from mpqtool.cli import cli
from mpqtool.errors import DataError, OptionError
from mpqtool.job import Job, prepare
from mpqtool.options import QuantizeOptions
from mpqtool.reporter import Reporter

NET = """net (float[N, 1, 4, 4] x) => (float[N, 3] y) {
    c = Conv <pads = [1, 1, 1, 1]> (x, w)
    b = BatchNormalization (c, s, t, m, v)
    r = Relu (b)
    f = Flatten (r)
    y = Gemm <transB = 1> (f, u)
}"""
PLAIN = NET.replace("b = BatchNormalization (c, s, t, m, v)", "b = Identity (c)")


@pytest.fixture(autouse=True)
def _few(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run_data_free, "_TRAIN", 40)
    monkeypatch.setattr(run_data_free, "_TEST", 10)
    monkeypatch.setattr("mpqtool.data_free._STEPS", 3)


def _saved(folder: pathlib.Path, text: str = NET) -> pathlib.Path:
    rng = np.random.default_rng(0)
    arrays = {"w": rng.normal(size=(2, 1, 3, 3)), "u": rng.normal(size=(3, 32))}
    if "BatchNormalization" in text:
        arrays |= {"s": np.ones(2), "t": np.zeros(2), "m": np.ones(2), "v": np.full(2, 9.0)}
    ir.save(parse(text, {name: a.astype(np.float32) for name, a in arrays.items()}), folder / "m.onnx")
    return folder / "m.onnx"


def _prepared(path: pathlib.Path, **options: Any) -> tuple[Job, str]:
    stream = io.StringIO()
    given = QuantizeOptions(out=str(path.parent / "out"), **options)
    return prepare(path, given, Reporter(stream=stream)), stream.getvalue()


def test_inputs_are_made_and_one_line_says_of_what(tmp_path: pathlib.Path) -> None:
    job, said = _prepared(_saved(tmp_path))
    assert (len(job.data.train), len(job.data.test)) == (40, 10)
    assert job.data.synthetic
    assert (job.mode, job.data.train.labels) == ("data-free", None)
    assert job.test_score(job.float_outputs) is None
    warned = [line for line in said.splitlines() if "NO DATA" in line]
    assert len(warned) == 1
    assert "40 + 10 inputs are made up (noise, shaped until" in warned[0]
    assert "the accuracy is not measured" in warned[0]
    again, _ = _prepared(job.path)
    other, _ = _prepared(job.path, seed=1)
    np.testing.assert_array_equal(again.data.test.inputs["x"], job.data.test.inputs["x"])
    assert not np.array_equal(other.data.test.inputs["x"], job.data.test.inputs["x"])


def test_without_statistics_the_noise_is_called_plain(tmp_path: pathlib.Path) -> None:
    assert "made up (plain Gaussian noise" in _prepared(_saved(tmp_path, PLAIN))[1]


def test_none_is_meant_even_where_there_is_a_file(tmp_path: pathlib.Path) -> None:
    path = _saved(tmp_path)
    np.savez(tmp_path / "m.npz", x=np.ones((30, 1, 4, 4), np.float32))
    job, said = _prepared(path)
    assert not job.data.synthetic
    assert "NO DATA" not in said
    forced, _ = _prepared(path, data="none")
    assert forced.data.synthetic
    (tmp_path / "m.npz").unlink()
    assert _prepared(path)[0].identity == forced.identity


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"max_drop": 2.0}, "max_drop needs data: it is in points of a metric, .* or leave max_drop out"),
        ({"method": "ptq", "min_sqnr": 30.0}, "min_sqnr needs data"),
        ({"method": "adaqat", "from_scratch": True}, "from_scratch needs data: new weights"),
        ({"mean": (0.5,)}, "mean needs data: there are no pictures"),
    ],
)
def test_options_that_need_data_are_refused(
    tmp_path: pathlib.Path, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(OptionError, match=message) as caught:
        _prepared(_saved(tmp_path), **options)
    assert "\n" not in str(caught.value)


def test_inputs_that_nobody_can_make_up_are_refused(tmp_path: pathlib.Path) -> None:
    with pytest.raises(DataError, match=r"shape N x 1 x H x 4, .* or give samples with --data"):
        _prepared(_saved(tmp_path, NET.replace("[N, 1, 4, 4]", "[N, 1, H, 4]")))


@pytest.mark.parametrize("method", ["impq", "adaqat --all-layers", "ptq", "fat"])
def test_no_output_claims_an_accuracy(tmp_path: pathlib.Path, method: str) -> None:
    path, out = _saved(tmp_path), tmp_path / "out"
    arguments = ["quantize", path, "--method", *method.split(), "-o", out]
    if method != "ptq":
        arguments += ["--epochs", 1, "--batch-size", 8, "--tensorboard"]
    ran = CliRunner().invoke(cli, list(map(str, arguments)))
    assert ran.exit_code == 0, ran.stderr

    result = json.loads((out / "result.json").read_text())
    assert result["metric"] == dict.fromkeys(("name", "float", "fake_quant", "qdq", "integer"))
    assert result["data"] == {"spec": None, "train": 40, "test": 10, "labels": False, "mode": "data-free"}
    assert result["verify"]["passed"]
    assert result["verify"]["codes_compared"] > 0
    rows = [
        *result["history"],
        *result["points"],
        result["budgets"],
        *map(json.loads, (out / "log.jsonl").read_text().splitlines()),
    ]
    keys = {key for row in rows for key in row if "held_out" in key}
    assert "held_out_synthetic" in keys
    assert all(key.endswith("_synthetic") for key in keys)
    board = b"".join(file.read_bytes() for file in out.glob("tensorboard/**/*") if file.is_file())
    assert (b"held_out_synthetic" in board) == (method != "ptq")
    assert not re.search(rb"held_out(?!\w)", board)
    assert "not measured: no data" in ran.stdout
    assert not re.search("top1|agreement|sqnr|accuracy +[0-9]", ran.stdout)
    assert "NO DATA" in ran.stderr
    assert all("held-out (synthetic)" in line for line in ran.stderr.splitlines()[1:] if "held-out" in line)
    page = re.sub("<[^>]*>", " ", (out / "report.html").read_text().partition("</style>")[2])
    assert "without data : inputs are synthetic, and the accuracy is not measured" in page
    assert "Accuracy, integer file not measured" in " ".join(page.split())
    assert not re.search("Top-1|Agreement with float", page)


def test_sensitivity_measures_no_answers(tmp_path: pathlib.Path) -> None:
    path, table, picture = _saved(tmp_path), tmp_path / "g.csv", tmp_path / "g.svg"
    found = mpqtool.sensitivity(path, data="none", csv=table, plot=picture)
    assert (found["data"], found["samples"]) == (None, 40)
    assert all(row["measured"] is None and row["bound"] >= 0 for row in found["uniform"])
    assert all(row["noise_gain"] >= 0 for row in found["groups"])
    assert "bound" in picture.read_text()
    assert "measured" not in picture.read_text()
    shown = CliRunner().invoke(cli, ["sensitivity", str(path)]).stdout
    assert "not measured" in shown
    assert "40 synthetic samples" in shown
