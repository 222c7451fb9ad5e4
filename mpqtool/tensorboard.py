"""The numbers of a run as TensorBoard files. The package is loaded only by a run that asked for them."""

from __future__ import annotations

__all__ = ["Board", "check_available"]

import importlib.util
import os
import pathlib
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from .errors import OptionError

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter

_KINDS = ("widths", "epoch", "iteration", "integers")
_HELD_OUT = frozenset({"held_out", "held_out_synthetic"})
_NOT_DRAWN = ("event", "t", "step", "steps", "epoch", "epochs", "iteration")
"""Fields that say when something happened, or how far the run is."""


def check_available() -> None:
    """Refuse ``--tensorboard`` where the package is missing.

    Raises:
        OptionError: TensorBoard is not installed.
    """
    if importlib.util.find_spec("tensorboard") is None:
        raise OptionError(
            "--tensorboard needs the package tensorboard, which is not installed. Run "
            "`pip install 'mpqtool[tensorboard]'`, or leave the option out."
        )


class Board:
    """Writes events of the log as scalars.

    What is counted in steps, epochs and iterations has a folder each, which TensorBoard shows as three runs:
    a run that goes on from a checkpoint repeats some of each, and what TensorBoard then drops of the first
    attempt (``purge_step``) it drops from a whole folder.

    Args:
        folder: Where the files go; a run that goes on adds to what is there.
        past: The events that are in the log already. Epochs are counted over the whole run.
    """

    def __init__(self, folder: str | os.PathLike[str], past: Iterable[Mapping[str, Any]] = ()) -> None:
        self._folder = pathlib.Path(folder)
        self._writers: dict[str, SummaryWriter] = {}
        self._epochs: dict[tuple[Any, Any], int] = {}
        for record in past:
            self._position(record)

    def add(self, record: Mapping[str, Any]) -> None:
        """Write the numbers of an event; events that say nothing of the network are left out."""
        numbers = {key: value for key, value in record.items() if _is_number(value)}
        if record["event"] not in _KINDS and not _HELD_OUT.intersection(numbers):
            return
        axis, x = self._position(record)
        writer = self._writer(axis, x)
        for key, value in numbers.items():
            if key not in _NOT_DRAWN:
                tag = key if key in _HELD_OUT else f"{record['event']}/{key}"
                writer.add_scalar(tag, value, x)
        writer.flush()  # so that it can be watched, and a killed run leaves no gap

    def close(self) -> None:
        """Close the files."""
        for writer in self._writers.values():
            writer.close()
        self._writers.clear()

    def _position(self, record: Mapping[str, Any]) -> tuple[str, int]:
        """Where an event belongs: the name of the axis, and the place on it."""
        if record.get("event") == "epoch":  # numbered anew in every iteration, and in the integer steps
            name = (record.get("label"), record.get("epoch"))
            return "epochs", self._epochs.setdefault(name, len(self._epochs) + 1)
        for axis, key in (("steps", "step"), ("iterations", "iteration"), ("epochs", "epoch")):
            if _is_number(record.get(key)):
                return axis, int(record[key])
        return "epochs", len(self._epochs) + 1  # behind the last one: a repetition must not drop that

    def _writer(self, axis: str, first: int) -> SummaryWriter:
        if axis not in self._writers:
            from torch.utils.tensorboard import SummaryWriter

            self._writers[axis] = SummaryWriter(self._folder / axis, purge_step=first)
        return self._writers[axis]


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)
