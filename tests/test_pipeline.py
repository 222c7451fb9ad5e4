"""How a run begins: what it clears away, and what it opens."""

from __future__ import annotations

import pathlib
from typing import Any, NoReturn

import numpy as np
import onnx_ir as ir
import pytest
from onnx_text import parse

from mpqtool import pipeline, tensorboard
from mpqtool.checkpoint import Checkpoint
from mpqtool.errors import OptionError
from mpqtool.job import Job
from mpqtool.options import QuantizeOptions
from mpqtool.reporter import Reporter


@pytest.fixture
def model(tmp_path: pathlib.Path, rng: np.random.Generator) -> pathlib.Path:
    """A file with its data beside it."""
    text = "net (float[N, 3] x) => (float[N, 4] y) { y = MatMul (x, w) }"
    ir.save(parse(text, {"w": rng.normal(size=(3, 4)).astype(np.float32)}), tmp_path / "m.onnx")
    np.savez(tmp_path / "m.npz", x=rng.normal(size=(20, 3)).astype(np.float32))
    return tmp_path / "m.onnx"


def _killed(monkeypatch: pytest.MonkeyPatch, model: pathlib.Path, **options: Any) -> pathlib.Path:
    """The run directory of a run that is killed in its training, behind one event and one checkpoint."""

    def train(job: Job) -> NoReturn:
        job.reporter.event("widths", step=8, loss=0.5)
        job.save("search", Checkpoint({}, {}))
        raise KeyboardInterrupt

    monkeypatch.setattr(pipeline, "finish", train)
    out = model.parent / "out"
    with pytest.raises(KeyboardInterrupt):
        pipeline.run(model, QuantizeOptions(out=str(out), **options), Reporter(silent=True))
    return out


@pytest.mark.parametrize("board", [False, True])
def test_a_new_run_clears_away_the_old_one(
    monkeypatch: pytest.MonkeyPatch, model: pathlib.Path, board: bool
) -> None:
    old = [model.parent / "out" / name for name in ("tensorboard/steps/old", "checkpoint/old", "log.jsonl")]
    for path in old:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text('{"event": "old"}\n')
    out = _killed(monkeypatch, model, tensorboard=board)
    assert {path.name for path in out.iterdir()} == {"log.jsonl", "checkpoint", *["tensorboard"] * board}
    assert [path.exists() for path in old] == [False, False, True]
    assert "old" not in old[2].read_text()


def test_tensorboard_files_are_written_if_asked_for_and_a_resumed_run_adds_to_them(
    monkeypatch: pytest.MonkeyPatch, model: pathlib.Path
) -> None:
    for resume, board, files in ((False, False, 0), (False, True, 1), (True, True, 2), (True, False, 2)):
        out = _killed(monkeypatch, model, resume=resume, tensorboard=board)
        assert len(list(out.glob("tensorboard/steps/*"))) == files


def test_without_the_package_nothing_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tensorboard.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(OptionError, match="tensorboard"):  # and not that there is no such file
        pipeline.run("no.onnx", QuantizeOptions(tensorboard=True), Reporter(silent=True))
