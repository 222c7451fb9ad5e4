"""The binary batches of CIFAR-10."""

from __future__ import annotations

__all__ = ["load"]

import pathlib
from collections.abc import Mapping

import numpy as np

from mpqtool.errors import DataError

from .pixels import Pixels
from .split import Data, Shape, Split, input_name

_TRAIN = tuple(f"data_batch_{i}.bin" for i in range(1, 6))
_TEST = ("test_batch.bin",)
_IMAGE = (3, 32, 32)
_RECORD = 1 + 3 * 32 * 32  # one byte of label, then the planes


def load(path: pathlib.Path, spec: str, inputs: Mapping[str, Shape] | None, pixels: Pixels) -> Data:
    """Read ``data_batch_1.bin`` to ``data_batch_5.bin`` and ``test_batch.bin`` from a folder.

    Shape:
        Pictures become ``(samples, 3, 32, 32)``.
    """
    if not path.is_dir():
        raise DataError(f"No such folder: {str(path)!r}, wanted for {spec!r}")
    missing = [name for name in (*_TRAIN, *_TEST) if not (path / name).is_file()]
    if missing and (path / "data_batch_1").is_file():
        raise DataError(
            f"{str(path)!r} holds the python batches, which are pickles and are never loaded: a pickle "
            "can run any code. Use the binary version of CIFAR-10 (data_batch_1.bin ...)."
        )
    if missing:
        raise DataError(
            f"{str(path)!r} lacks {', '.join(missing)}: the binary batches of CIFAR-10 are needed"
        )
    name = input_name(spec, inputs)

    def split(files: tuple[str, ...]) -> Split:
        records = np.concatenate([_read(path / file) for file in files])
        images = records[:, 1:].reshape(-1, *_IMAGE)
        return Split({name: pixels.scale(images)}, records[:, 0].astype(np.int64))

    return Data(spec, split(_TRAIN), split(_TEST))


def _read(path: pathlib.Path) -> np.ndarray[tuple[int, int], np.dtype[np.uint8]]:
    raw = np.fromfile(path, np.uint8)
    if len(raw) == 0 or len(raw) % _RECORD:
        raise DataError(
            f"{str(path)!r} is cut short or damaged: {len(raw)} bytes are not a whole number of records "
            f"of {_RECORD} bytes"
        )
    return raw.reshape(-1, _RECORD)
