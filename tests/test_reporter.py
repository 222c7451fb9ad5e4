"""The log, the lines and the bar of a run."""

from __future__ import annotations

import io
import json
import math
import pathlib
import re
from typing import Any

import numpy as np
import pytest

from mpqtool.reporter import Reporter


class _Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def _events(path: pathlib.Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_events_before_open_are_kept(tmp_path: pathlib.Path) -> None:
    reporter = Reporter(silent=True)
    reporter.event("early", n=1)
    reporter.open(tmp_path / "run" / "log.jsonl")
    reporter.event("late", loss=np.float32(0.5), codes=np.arange(2), where=tmp_path)
    reporter.close()
    early, late = _events(tmp_path / "run" / "log.jsonl")
    assert (early["event"], early["n"]) == ("early", 1)
    assert (late["loss"], late["codes"], late["where"]) == (0.5, [0, 1], str(tmp_path))


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, np.float32("nan"), np.array(np.inf)])
def test_what_is_no_number_is_null(tmp_path: pathlib.Path, value: Any) -> None:
    reporter = Reporter(silent=True)
    reporter.open(tmp_path / "log.jsonl")
    reporter.event("widths", loss=value, inside=[{"loss": value}, 2.5], text="NaN")
    reporter.close()

    def refuse(constant: str) -> None:
        raise AssertionError(constant)

    event = json.loads((tmp_path / "log.jsonl").read_text(), parse_constant=refuse)
    assert (event["loss"], event["inside"], event["text"]) == (None, [{"loss": None}, 2.5], "NaN")


def test_open_appends_and_drops_what_a_kill_left(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "log.jsonl"
    path.write_text('{"event": "before"}\n{"event": "ha')
    reporter = Reporter(silent=True)
    reporter.open(path)
    reporter.event("after")
    assert [event["event"] for event in _events(path)] == ["before", "after"]
    reporter.close()


def test_a_warning_said_again_after_a_resume_is_logged_once(tmp_path: pathlib.Path) -> None:
    for run in range(2):
        reporter = Reporter(stream=io.StringIO())
        reporter.warn("no labels")
        reporter.warn(f"run {run}")
        reporter.event("start", text="no labels")
        reporter.open(tmp_path / "log.jsonl")
        reporter.close()
    kinds = [(event["event"], event["text"]) for event in _events(tmp_path / "log.jsonl")]
    start = ("start", "no labels")
    assert kinds == [("warning", "no labels"), ("warning", "run 0"), start, ("warning", "run 1"), start]


def test_lines_without_a_terminal() -> None:
    stream = io.StringIO()
    reporter = Reporter(stream=stream)
    with reporter.progress(3, "training") as progress:
        reporter.say("epoch [1]")
        progress.advance(accuracy=97.5)
    reporter.warn("no labels")
    assert stream.getvalue() == "epoch [1]\nwarning: no labels\n"


def test_warnings_are_logged(tmp_path: pathlib.Path) -> None:
    reporter = Reporter(stream=io.StringIO())
    reporter.open(tmp_path / "log.jsonl")
    reporter.warn("no labels")
    reporter.close()
    assert _events(tmp_path / "log.jsonl")[0]["text"] == "no labels"


def test_silent_goes_to_logging(caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]) -> None:
    reporter = Reporter(silent=True)
    with caplog.at_level("INFO", "mpqtool"), reporter.progress(1, "x") as progress:
        progress.advance()
        reporter.say("hello 100 %")
        reporter.warn("careful")
    assert [(r.levelname, r.getMessage()) for r in caplog.records] == [
        ("INFO", "hello 100 %"), ("WARNING", "careful"),
    ]  # fmt: skip
    assert capsys.readouterr() == ("", "")


def test_bar_on_a_terminal_shows_columns_and_nests(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setenv("TERM", "xterm")
    stream = _Terminal()
    reporter = Reporter(stream=stream)
    with reporter.progress(4, "search") as outer:
        outer.advance(weights_eff=3.456, activations_eff=6.0, top1=None)
        with reporter.progress(2, "iteration 1") as inner:
            inner.advance(2)
            reporter.say("a line [between]")
        outer.advance(top1=97.25)
    shown = stream.getvalue()
    for text in (
        "search",
        "iteration 1",
        "W 3.46",
        "A 6.00",
        "top1 -",
        "top1 97.25",
        "a line [between]",
        "50%",
    ):
        assert text in shown
    with reporter.progress(1, "again") as progress:  # the first bar is gone, another can be made
        progress.advance()
    assert "again" in stream.getvalue()


def test_learned_widths_fit_a_line_of_80_characters(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setenv("TERM", "xterm")
    stream = _Terminal()
    with Reporter(stream=stream).progress(1200, "training") as progress:
        progress.advance(640, weights_eff=3.0, activations_eff=4.0, loss=0.312, oscillations="10/9")
    lines = re.sub(r"\x1b\[[\d;?]*[A-Za-z]", "", stream.getvalue()).replace("\r", "\n").splitlines()
    assert any(
        line.startswith("training ")
        and "W 3.00  A 4.00  loss 0.31  osc 10/9 left -:--:--" in line
        and len(line.rstrip()) <= 80
        for line in lines
    )
