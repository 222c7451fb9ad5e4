"""What the page reads from a log."""

from __future__ import annotations

import json
import pathlib
import sys
from typing import Any

from mpqtool.report.log import Log, read


def _widths(step: int, **more: float) -> dict[str, Any]:
    same = {"weights": 3.0, "activations": 4.0, "weight_bits": 3.0, "activation_bits": 4.0}
    return {"event": "widths", "step": step, **same, **more}


def _frozen(step: int, variable: str, reason: str = "stall", granularity: str = "network") -> dict[str, Any]:
    return {
        "event": "frozen", "step": step, "granularity": granularity, "variable": variable, "kind": "weights",
        "bits": 3, "reason": reason,
    }  # fmt: skip


def _write(folder: pathlib.Path, *events: dict[str, Any]) -> None:
    (folder / "log.jsonl").write_text("".join(f"{json.dumps(event)}\n" for event in events))


def _read(folder: pathlib.Path, *events: dict[str, Any]) -> Log:
    _write(folder, *events)
    return read(folder / "log.jsonl")


def test_no_file_is_an_empty_log(tmp_path: pathlib.Path) -> None:
    assert read(tmp_path / "log.jsonl") == Log([], [], [])


def test_what_is_not_ours_is_left_out(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "log.jsonl"
    path.write_text('3\n{"event": "widths", "steps": 1}\n{"event": "frozen"}\n{"event": "epoch"}\n{"ev')
    assert read(path) == Log([], [], [])


def test_a_loss_may_be_missing_or_no_number(tmp_path: pathlib.Path) -> None:
    log = _read(tmp_path, _widths(8), _widths(16, loss=float("nan")))
    assert [row.step for row in log.widths] == [8, 16]
    assert log.widths[0].loss is None


def test_steps_that_a_resumed_run_repeats_count_once(tmp_path: pathlib.Path) -> None:
    first = [_widths(step, loss=1.0) for step in (8, 16, 24, 32)]
    second = [_widths(step, loss=2.0) for step in (24, 32, 40)]
    log = _read(
        tmp_path, *first[:3], _frozen(24, "a"), first[3], _frozen(32, "b"), {"event": "start"},
        second[0], second[1], second[2], _frozen(40, "weights"),
    )  # fmt: skip
    assert [(row.step, row.loss) for row in log.widths] == [(8, 1), (16, 1), (24, 2), (32, 2), (40, 2)]
    assert [(event.step, event.reason) for event in log.frozen] == [(40, "stall")]


def test_the_last_line_may_be_repeated_alone(tmp_path: pathlib.Path) -> None:
    log = _read(tmp_path, _widths(8), _widths(16, loss=1.0), _frozen(16, "a"), _widths(16, loss=2.0))
    assert [row.loss for row in log.widths] == [None, 2.0]
    assert len(log.frozen) == 1


def test_a_stop_that_is_said_again_counts_once(tmp_path: pathlib.Path) -> None:
    log = _read(tmp_path, _frozen(16, "a", "stall"), _frozen(16, "b"), _frozen(16, "a", "budget"))
    assert [(event.variable, event.reason) for event in log.frozen] == [("a", "budget"), ("b", "stall")]


def test_many_stops_at_one_step_are_read_in_linear_time(tmp_path: pathlib.Path) -> None:
    def lines_run(count: int) -> int:
        run, before = 0, sys.gettrace()

        def trace(*_: Any) -> Any:
            nonlocal run
            run += 1
            return trace

        _write(tmp_path, *(_frozen(640, f"c.weight[{i}]", "budget", "kernel") for i in range(count)))
        sys.settrace(trace)
        try:
            log = read(tmp_path / "log.jsonl")
        finally:
            sys.settrace(before)
        assert len(log.frozen) == count
        return run

    assert lines_run(5000) < 5 * lines_run(1250)  # four times as many, and 16 times if each scans all


def test_warnings_are_there_once(tmp_path: pathlib.Path) -> None:
    said = [{"event": "warning", "text": text} for text in ("b", "a", "b")]
    assert _read(tmp_path, *said).warnings == ["b", "a"]
