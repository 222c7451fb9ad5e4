"""Samples in arrays named after the model inputs."""

from __future__ import annotations

__all__ = ["from_arrays", "load"]

import logging
import pathlib
import zipfile
import zlib
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mpqtool.errors import DataError

from .split import Data, Shape, Split

logger = logging.getLogger(__name__)

_LABEL, _TEST = "label", "_test"
_HELD_OUT = 5  # one sample in so many


def load(path: pathlib.Path, spec: str, inputs: Mapping[str, Shape] | None) -> Data:
    """Read an ``.npz`` file; object arrays, which are pickles, are refused."""
    try:
        with path.open("rb") as handle:  # numpy leaves a file of its own open where the zip is bad
            archive = np.load(handle, allow_pickle=False)
            if not isinstance(archive, np.lib.npyio.NpzFile):
                raise DataError(
                    f"{spec!r} holds one array without a name; save with numpy.savez(FILE, x=..., label=...)"
                )
            with archive:
                arrays = {name: archive[name] for name in archive.files}
    except (ValueError, OSError, EOFError, KeyError, zipfile.BadZipFile, zlib.error) as error:
        if "pickle" in str(error) and zipfile.is_zipfile(path):
            raise DataError(
                f"{spec!r} holds an array of Python objects, which is a pickle and is never loaded; "
                "save numbers (float32 inputs, int64 labels)"
            ) from error
        raise DataError(f"{spec!r} is not an .npz file, or is cut short: {_first_line(error)}") from error
    return from_arrays(arrays, spec, inputs)


def _first_line(error: Exception) -> str:
    return str(error).splitlines()[0] if str(error) else type(error).__name__


def from_arrays(arrays: Mapping[str, Any], spec: str, inputs: Mapping[str, Shape] | None) -> Data:
    """Sort arrays by name into splits; without a test split, the last fifth is held out, and said so.

    Raises:
        DataError: Array names are missing, or there are some that belong nowhere.
    """
    found = list(arrays)
    own = [name for name in found if name != _LABEL and not name.endswith(_TEST)]
    names = own if inputs is None else list(inputs)
    has_test = any(f"{name}{_TEST}" in arrays for name in names)
    labels = [_LABEL] if _LABEL in arrays else []
    wanted = [*names, *labels]
    wanted += [f"{name}{_TEST}" for name in wanted] if has_test else []
    missing = [name for name in wanted if name not in arrays]
    extra = [name for name in found if name not in wanted]
    if missing or extra or not names:
        parts = [f"missing {_listed(missing)}"] if missing else []
        parts += [f"not expected {_listed(extra)}"] if extra else []
        expected = _listed(names) if names else "one array per input"
        whose = "" if inputs is None else " (the inputs of the model)"
        raise DataError(
            f"{spec!r} holds {_listed(found)}: {', '.join(parts) or 'no input'}. Expected are "
            f"{expected}{whose}, {_LABEL!r} if there are labels, all again with {_TEST!r} for a test split."
        )
    values = {name: np.asarray(arrays[name]) for name in wanted}
    for name, value in values.items():
        if value.ndim == 0:
            raise DataError(f"{spec!r}: {name!r} is a single number; its first dimension must be the samples")
    if has_test:
        return Data(spec, _split(values, names, labels, ""), _split(values, names, labels, _TEST))
    return _hold_out(spec, _split(values, names, labels, ""))


def _listed(names: list[str]) -> str:
    return ", ".join(map(repr, names)) or "(none)"


def _split(values: dict[str, NDArray[Any]], names: list[str], labels: list[str], suffix: str) -> Split:
    label = values[f"{_LABEL}{suffix}"] if labels else None
    return Split({name: values[f"{name}{suffix}"] for name in names}, label)


def _hold_out(spec: str, split: Split) -> Data:
    samples, held = len(split), len(split) // _HELD_OUT
    if held == 0:
        raise DataError(
            f"{spec!r} has {samples} samples and no test split; holding out a fifth needs {_HELD_OUT} or more"
        )
    kept = samples - held
    logger.info("%s has no test split: the last %d of %d samples are held out", spec, held, samples)
    test_labels = None if split.labels is None else split.labels[kept:]
    train_labels = None if split.labels is None else split.labels[:kept]
    return Data(
        spec,
        Split({name: array[:kept] for name, array in split.inputs.items()}, train_labels),
        Split({name: array[kept:] for name, array in split.inputs.items()}, test_labels),
        held_out=True,
    )
