"""What a run says while it runs: a log of events, lines for a person, a progress bar on a terminal."""

from __future__ import annotations

__all__ = ["Progress", "Reporter"]

import contextlib
import json
import logging
import os
import pathlib
import sys
import time
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, TextIO

if TYPE_CHECKING:
    from rich.progress import Progress as RichProgress
    from rich.progress import TaskID

    from .tensorboard import Board

logger = logging.getLogger("mpqtool")

_COLUMNS = {"weights_eff": "W", "activations_eff": "A", "oscillations": "osc"}
_KEPT = 10_000  # events held back until the log file is known
_HELD_OUT, _SYNTHETIC = "held_out", "_synthetic"  # result.SYNTHETIC, which takes pydantic to import


class Progress:
    """One bar, or nothing where there is no terminal."""

    def __init__(self, bar: RichProgress | None, task: TaskID | None) -> None:
        self._bar, self._task = bar, task
        self._columns: dict[str, object] = {}

    def advance(self, n: int = 1, **columns: object) -> None:
        """Go on by ``n`` steps and show the values of ``columns``; those not named keep their last value."""
        if self._bar is None or self._task is None:
            return
        self._columns.update(columns)
        shown = "  ".join(f"{_COLUMNS.get(k, k)} {_text(v)}" for k, v in self._columns.items())
        self._bar.update(self._task, advance=n, columns=shown)


def _text(value: object) -> str:
    if value is None:
        return "-"
    return f"{value:.2f}" if isinstance(value, float) else str(value)


class Reporter:
    """Where a run reports to.

    Args:
        silent: Show nothing: what would be said goes to the logger ``mpqtool`` instead. For library use.
        stream: Where a person reads; None: standard error.

    Attributes:
        synthetic: Whether the inputs of the run are made up. What is measured on those held out has another
            name then, in the log and on the screen: it must not be taken for an accuracy.
    """

    def __init__(self, *, silent: bool = False, stream: TextIO | None = None) -> None:
        self._silent, self._stream, self.synthetic = silent, stream, False
        self._began = time.monotonic()
        self._log: TextIO | None = None
        self._board: Board | None = None
        self._early: list[str] = []
        self._bar: RichProgress | None = None

    def open(self, path: str | os.PathLike[str]) -> None:
        """Append to this log file from now on, and write what was reported before.

        A run that goes on from a checkpoint warns of the same things again; the log has each once.
        """
        path = pathlib.Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        _drop_partial_line(path)
        self.close()
        said = {text for line in _lines(path) if (text := _warning(line))}
        self._log = path.open("a", encoding="utf-8")
        self._log.writelines(line for line in self._early if _warning(line) not in said)
        self._log.flush()
        self._early.clear()

    def open_board(self, folder: str | os.PathLike[str]) -> None:
        """Write the numbers of events to this folder too, as TensorBoard files; call it after ``open``.

        A run that goes on from a checkpoint goes on counting the epochs of its log.
        """
        from .tensorboard import Board

        lines = [] if self._log is None else _lines(pathlib.Path(self._log.name))
        self._board = Board(folder, filter(None, map(_record, lines)))

    def close(self) -> None:
        """Close the files, if there are any."""
        if self._log is not None:
            self._log.close()
            self._log = None
        if self._board is not None:
            self._board.close()
            self._board = None

    def named(self, fields: Mapping[str, Any]) -> dict[str, Any]:
        """The fields, where inputs are made up with ``held_out_synthetic`` in place of ``held_out``."""
        return {
            f"{key}{_SYNTHETIC}" if self.synthetic and key.startswith(_HELD_OUT) else key: value
            for key, value in fields.items()
        }

    def event(self, kind: str, /, **fields: Any) -> None:
        """Add one line to the log: the kind, the seconds since the start, and the fields.

        NaN and infinity, which are not JSON, become null.
        """
        given = {"event": kind, "t": round(time.monotonic() - self._began, 3), **self.named(fields)}
        record = json.loads(json.dumps(given, default=_plain), parse_constant=lambda _: None)
        line = json.dumps(record) + "\n"
        if self._board is not None:
            self._board.add(record)
        if self._log is None:
            if len(self._early) < _KEPT:
                self._early.append(line)
            return
        self._log.write(line)
        self._log.flush()

    def say(self, text: str) -> None:
        """Tell a person something, in one line."""
        text = self._worded(text)
        if self._silent:
            logger.info("%s", text)
        else:
            self._print(text)

    def warn(self, text: str) -> None:
        """Tell a person something that must not be overlooked; it goes to the log as well."""
        text = self._worded(text)
        self.event("warning", text=text)
        if self._silent:
            logger.warning("%s", text)
        else:
            self._print(f"warning: {text}")

    def _worded(self, text: str) -> str:
        """What every method says, in one place; its one line about made inputs comes before they are."""
        return text.replace("held-out", "held-out (synthetic)") if self.synthetic else text

    def _print(self, text: str) -> None:
        if self._bar is not None:  # rich moves the bar out of the way
            self._bar.console.print(text, markup=False, highlight=False, soft_wrap=True)
        else:
            stream = self._stream or sys.stderr
            stream.write(f"{text}\n")
            stream.flush()

    @contextlib.contextmanager
    def progress(self, total: int, label: str) -> Iterator[Progress]:
        """Show a bar of ``total`` steps while the block runs; bars may be nested.

        It shows the label, the share done, the columns given to ``advance`` and the time left; a line of 80
        characters holds it. Without a terminal there is no bar.
        """
        stream = self._stream or sys.stderr
        if self._silent or not stream.isatty():
            yield Progress(None, None)
        elif self._bar is not None:
            task = self._bar.add_task(label, total=total, columns="")
            try:
                yield Progress(self._bar, task)
            finally:
                self._bar.remove_task(task)
        else:
            with _rich_progress(stream) as bar:
                self._bar = bar
                try:
                    yield Progress(bar, bar.add_task(label, total=total, columns=""))
                finally:
                    self._bar = None


def _rich_progress(stream: TextIO) -> RichProgress:
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        TaskProgressColumn,
        TextColumn,
        TimeRemainingColumn,
    )
    from rich.progress import Progress as RichProgress

    return RichProgress(
        TextColumn("{task.description}", markup=False),
        BarColumn(bar_width=12),
        TaskProgressColumn(),
        TextColumn("{task.fields[columns]}", markup=False),
        TextColumn("left"),
        TimeRemainingColumn(),
        console=Console(file=stream),
        transient=True,
    )


def _drop_partial_line(path: pathlib.Path) -> None:
    """Cut off what a killed run left of its last line, so that the log stays one JSON value a line."""
    if not path.exists():
        return
    content = path.read_bytes()
    whole = content.rfind(b"\n") + 1
    if whole < len(content):
        os.truncate(path, whole)


def _lines(path: pathlib.Path) -> list[str]:
    return path.read_text(encoding="utf-8").splitlines() if path.exists() else []


def _warning(line: str) -> str | None:
    """The text of a line of the log that is a warning."""
    record = _record(line)
    return record.get("text") if record is not None and record.get("event") == "warning" else None


def _record(line: str) -> dict[str, Any] | None:
    """The event of a line of the log; None if it is no event."""
    try:
        record = json.loads(line)
    except ValueError:
        return None
    return record if isinstance(record, dict) else None


def _plain(value: Any) -> Any:
    """Make numpy scalars and arrays, paths and tensors fit for JSON, without importing their libraries."""
    if hasattr(value, "tolist"):
        return value.tolist()
    return str(value)
