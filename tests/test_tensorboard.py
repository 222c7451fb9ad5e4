"""TensorBoard files, read back with TensorBoard."""

from __future__ import annotations

import importlib.util
import itertools
import pathlib
import subprocess
import sys
import time

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from mpqtool.errors import OptionError
from mpqtool.reporter import Reporter
from mpqtool.tensorboard import check_available


def _begin(folder: pathlib.Path) -> Reporter:
    reporter = Reporter(silent=True)
    reporter.open(folder / "log.jsonl")
    reporter.open_board(folder / "tensorboard")
    return reporter


def _read(folder: pathlib.Path, axis: str) -> dict[str, list[tuple[int, float]]]:
    found = EventAccumulator(str(folder / "tensorboard" / axis), size_guidance={"scalars": 0})
    found.Reload()
    return {
        tag: [(event.step, round(event.value, 6)) for event in found.Scalars(tag)]
        for tag in found.Tags()["scalars"]
    }


def test_widths_are_drawn_over_steps(tmp_path: pathlib.Path) -> None:
    reporter = _begin(tmp_path)
    for step in (8, 16):
        reporter.event(
            "widths",
            step=step,
            steps=1200,
            weights=step / 2,
            loss=0.5,
            weight_oscillations=3,
        )
    reporter.event("frozen", step=16, granularity="network", variable="weights", bits=3, reason="stall")
    reporter.close()
    assert _read(tmp_path, "steps") == {
        "widths/weights": [(8, 4), (16, 8)],
        "widths/loss": [(8, 0.5), (16, 0.5)],
        "widths/weight_oscillations": [(8, 3), (16, 3)],
    }


def test_epochs_are_counted_over_the_whole_run(tmp_path: pathlib.Path) -> None:
    """IMPQ numbers its epochs anew in each iteration, every method in the integer steps."""
    reporter = _begin(tmp_path)
    for label, epoch in (("iteration 0", 1), ("iteration 0", 2), ("iteration 1", 1), ("in integers", 1)):
        reporter.event("epoch", label=label, epoch=epoch, epochs=2, loss=epoch / 4)
    reporter.event("iteration", iteration=1, phase="weights", weights_eff=3.5, held_out=97.5, accepted=True)
    reporter.event("integers", held_out_before=96.5, held_out=97.0, accepted=True)
    reporter.event("early_stop", label="iteration 0", epoch=1)
    reporter.close()
    assert _read(tmp_path, "epochs") == {
        "epoch/loss": [(1, 0.25), (2, 0.5), (3, 0.25), (4, 0.25)],
        "integers/held_out_before": [(5, 96.5)],
        "held_out": [(5, 97)],
    }
    assert _read(tmp_path, "iterations") == {"iteration/weights_eff": [(1, 3.5)], "held_out": [(1, 97.5)]}


def test_whatever_has_a_held_out_metric_is_drawn(tmp_path: pathlib.Path) -> None:
    reporter = _begin(tmp_path)
    reporter.event("measured", epoch=0, held_out=None, weights_eff=4.0)
    reporter.event("measured", epoch=1, held_out=95.0, weights_eff=4.0)
    reporter.close()
    assert _read(tmp_path, "epochs") == {"held_out": [(1, 95)], "measured/weights_eff": [(1, 4)]}


def _each_file_a_second_later(monkeypatch: pytest.MonkeyPatch) -> None:
    """TensorBoard reads files in the order of their names: the second, then a count without leading zeros."""
    seconds = itertools.count(int(time.time()))
    monkeypatch.setattr(time, "time", lambda: next(seconds))


def test_a_resumed_run_draws_what_it_repeats_once(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _each_file_a_second_later(monkeypatch)
    for begin, loss in ((0, 1.0), (2, 2.0)):
        reporter = _begin(tmp_path)
        for epoch in range(begin + 1, begin + 4):
            reporter.event("widths", step=10 * epoch - 2, loss=loss)
            reporter.event("widths", step=10 * epoch + 1, loss=loss)
            reporter.event("epoch", label="training", epoch=epoch, loss=loss)
            reporter.event("measured", epoch=epoch, held_out=90.0 + loss)
        reporter.close()
    steps, epochs = _read(tmp_path, "steps"), _read(tmp_path, "epochs")
    assert steps["widths/loss"] == [
        (8, 1), (11, 1), (18, 1), (21, 1), (28, 2), (31, 2), (38, 2), (41, 2), (48, 2), (51, 2),
    ]  # fmt: skip
    assert epochs["epoch/loss"] == [(1, 1), (2, 1), (3, 2), (4, 2), (5, 2)]
    assert epochs["held_out"] == [(1, 91), (2, 91), (3, 92), (4, 92), (5, 92)]


def test_a_run_resumed_after_its_last_epoch_keeps_it(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _each_file_a_second_later(monkeypatch)
    for _ in range(2):
        reporter = _begin(tmp_path)
        if not (tmp_path / "tensorboard").exists():
            reporter.event("epoch", label="training", epoch=1, loss=0.5)
        reporter.event("integers", held_out=97.0)
        reporter.close()
    assert _read(tmp_path, "epochs") == {"epoch/loss": [(1, 0.5)], "held_out": [(2, 97)]}


def test_events_can_be_read_while_the_run_goes_on(tmp_path: pathlib.Path) -> None:
    reporter = _begin(tmp_path)
    reporter.event("widths", step=1, loss=0.5)
    assert _read(tmp_path, "steps") == {"widths/loss": [(1, 0.5)]}
    reporter.close()


def test_without_events_there_are_no_files(tmp_path: pathlib.Path) -> None:
    reporter = _begin(tmp_path)
    reporter.event("start", path="m.onnx", seed=3)
    reporter.close()
    assert not (tmp_path / "tensorboard").exists()


def test_a_missing_package_is_named_with_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    check_available()
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(OptionError, match=r"pip install 'mpqtool\[tensorboard\]'"):
        check_available()


def test_the_package_is_loaded_only_for_a_board() -> None:
    code = (
        "import sys, mpqtool.reporter, mpqtool.tensorboard as board; board.check_available(); "
        "assert not {'tensorboard', 'torch'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-P", "-c", code], check=True)
