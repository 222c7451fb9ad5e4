"""How a run begins: what it clears away, and what it opens."""

from __future__ import annotations

import pathlib
import types

import pytest

from mpqtool import pipeline, tensorboard
from mpqtool.checkpoint import Checkpoint
from mpqtool.errors import OptionError
from mpqtool.options import QuantizeOptions
from mpqtool.reporter import Reporter


def _begin(out: pathlib.Path, *, resume: bool = False, board: bool = False) -> Reporter:
    job = types.SimpleNamespace(
        out=out,
        path="m.onnx",
        reporter=Reporter(silent=True),
        checkpoint=Checkpoint({}, {}) if resume else None,
        identity={},
        options=QuantizeOptions(tensorboard=board),
    )
    pipeline._begin(job)  # type: ignore[arg-type]
    return job.reporter


@pytest.mark.parametrize("board", [False, True])
def test_a_new_run_clears_away_the_old_one(tmp_path: pathlib.Path, board: bool) -> None:
    for name in ("tensorboard/steps/events", "checkpoint/state.json", "log.jsonl"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("{}\n")
    _begin(tmp_path, board=board).close()
    assert [path.name for path in tmp_path.iterdir()] == ["log.jsonl"]
    assert (tmp_path / "log.jsonl").read_text().count("\n") == 1


def test_tensorboard_files_are_written_if_asked_for_and_a_resumed_run_adds_to_them(
    tmp_path: pathlib.Path,
) -> None:
    for resume, board, files in ((False, False, 0), (False, True, 1), (True, True, 2), (True, False, 2)):
        reporter = _begin(tmp_path, resume=resume, board=board)
        reporter.event("widths", step=8, loss=0.5)
        reporter.close()
        assert len(list(tmp_path.glob("tensorboard/steps/*"))) == files


def test_a_missing_package_is_said_before_anything_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tensorboard.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(OptionError, match="needs the package tensorboard"):
        pipeline.run("no.onnx", QuantizeOptions(tensorboard=True), Reporter(silent=True))
