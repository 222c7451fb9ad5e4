"""The four files of MNIST and its relatives."""

from __future__ import annotations

__all__ = ["load"]

import gzip
import math
import pathlib
import struct
import zlib
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mpqtool.errors import DataError

from .pixels import Pixels
from .split import Data, Shape, Split, input_name

_UNSIGNED_BYTE = 8  # the type code of the third byte; the family uses no other


def load(path: pathlib.Path, spec: str, inputs: Mapping[str, Shape] | None, pixels: Pixels) -> Data:
    """Read ``train-images``, ``train-labels``, ``t10k-images`` and ``t10k-labels`` from a folder.

    Shape:
        Pictures become ``(samples, 1, height, width)``.
    """
    if not path.is_dir():
        raise DataError(f"No such folder: {str(path)!r}, wanted for {spec!r}")
    name = input_name(spec, inputs)

    def split(stem: str) -> Split:
        images, labels = _read(path, f"{stem}-images", 3), _read(path, f"{stem}-labels", 1)
        return Split({name: pixels.scale(images[:, None])}, labels.astype(np.int64))

    return Data(spec, split("train"), split("t10k"))


def _read(folder: pathlib.Path, stem: str, rank: int) -> NDArray[np.uint8]:
    """Read one file: ``0 0 type rank``, one big-endian int32 per dimension, the bytes."""
    # Some copies write "train-images.idx3-ubyte".
    found = sorted(
        p for p in folder.glob(f"{stem}[-.]idx{rank}-ubyte*") if p.suffix in ("", ".gz") or "idx" in p.suffix
    )
    if not found:
        raise DataError(f"{str(folder)!r} has no {stem}-idx{rank}-ubyte, plain or .gz")
    path = found[0]
    try:
        raw = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{str(path)!r} cannot be read: {error}. Fetch it again.") from error
    header = 4 + 4 * rank
    if len(raw) < header:
        raise DataError(f"{str(path)!r} is cut short: {len(raw)} bytes, the header alone has {header}")
    if raw[:4] != bytes((0, 0, _UNSIGNED_BYTE, rank)):
        raise DataError(
            f"{str(path)!r} is not an IDX file of bytes with {rank} dimensions: it starts with "
            f"{raw[:4].hex(' ')}, not 00 00 08 {rank:02x}"
        )
    shape: tuple[Any, ...] = struct.unpack(f">{rank}i", raw[4:header])
    if len(raw) - header != math.prod(shape):
        raise DataError(
            f"{str(path)!r} is cut short or damaged: {len(raw) - header} bytes of data, its header "
            f"says {' x '.join(map(str, shape))} = {math.prod(shape)}"
        )
    return np.frombuffer(raw, np.uint8, offset=header).reshape(shape)
