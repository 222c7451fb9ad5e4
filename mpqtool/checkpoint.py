"""Where a run stands, on disk: tensors in safetensors, everything else in JSON. No pickles."""

from __future__ import annotations

__all__ = ["Checkpoint", "load_checkpoint", "save_checkpoint", "saved_names", "tensors_under"]

import dataclasses
import json
import pathlib
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from .errors import CheckpointError
from .files import replacing

_NAME = "state"
_SUFFIX = ".safetensors"
_FORMAT = "7"
"""Counts up when a run of today would not fit what was written before: 7 has the
groups that a phase of IMPQ began with."""


@dataclasses.dataclass(frozen=True)
class Checkpoint:
    """Everything a run needs to go on as if it had never stopped.

    Attributes:
        tensors: Weights, statistics, quantizers and optimizer buffers, by name.
        state: Where the method is: plain JSON values.
    """

    tensors: dict[str, Tensor]
    state: dict[str, Any]


def save_checkpoint(folder: pathlib.Path, checkpoint: Checkpoint, name: str = _NAME) -> None:
    """Write one checkpoint in place of the last one of this name; whole or not at all."""
    tensors = {
        name: tensor.detach().cpu().contiguous().clone() for name, tensor in checkpoint.tensors.items()
    }
    # One file: tensors and state can never be of different epochs.
    with replacing(folder / (name + _SUFFIX)) as fresh:
        save_file(tensors, fresh, metadata={"state": json.dumps(checkpoint.state), "format": _FORMAT})


def saved_names(folder: pathlib.Path) -> list[str]:
    """The names of the checkpoints in a folder, sorted."""
    return sorted(path.stem for path in folder.glob(f"*{_SUFFIX}"))


def load_checkpoint(
    folder: pathlib.Path, name: str = _NAME, *, option: str = "--resume"
) -> Checkpoint | None:
    """The last whole checkpoint of a folder and a name, or None if there is none.

    Args:
        folder: Where it is.
        name: What it was saved as.
        option: What asks for it, for messages.

    Raises:
        CheckpointError: The file is there but is not a checkpoint, or is of another version.
    """
    path = folder / (name + _SUFFIX)
    if not path.exists():
        return None
    try:
        with safe_open(path, framework="pt") as opened:
            tensors = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118  # not a dict
            held = opened.metadata() or {}
            state, version = json.loads(held["state"]), held.get("format", "1")
    except (SafetensorError, KeyError, ValueError, OSError) as error:
        raise CheckpointError(
            f"Cannot resume from {str(path)!r}: it is not a checkpoint ({error}). "
            f"Leave {option} out to start anew."
        ) from None
    if version != _FORMAT:
        raise CheckpointError(
            f"Cannot resume from {str(path)!r}: another version of mpqtool wrote it, in format {version}, "
            f"allowed {_FORMAT}. Leave {option} out to start anew, or go on with that version."
        )
    return Checkpoint(tensors, state)


def tensors_under(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """The tensors whose names begin with ``prefix``, without it."""
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}
