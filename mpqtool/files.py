"""Write files so that they appear whole or not at all: write beside, fsync, rename."""

from __future__ import annotations

__all__ = ["replacing", "write_bytes", "write_json", "write_text"]

import contextlib
import json
import os
import pathlib
from collections.abc import Iterator


@contextlib.contextmanager
def replacing(path: str | os.PathLike[str]) -> Iterator[pathlib.Path]:
    """Give a path to write to, beside ``path``; it takes the place of ``path`` when the block ends.

    If the block raises, ``path`` is left as it was and what was written is removed. The folder is
    created if it is not there. The name beside keeps the suffix, as some writers go by it.
    """
    path = pathlib.Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f".{path.stem}.{os.getpid()}.new{path.suffix}")
    try:
        yield beside
        _sync(beside)
        os.replace(beside, path)
        _sync(path.parent)
    finally:
        beside.unlink(missing_ok=True)


def _sync(path: pathlib.Path) -> None:
    """Have the disk hold what was written, so that a power cut after the rename leaves no empty file."""
    if os.name == "nt" and path.is_dir():
        return  # Windows opens no folders
    descriptor = os.open(path, os.O_RDONLY if os.name != "nt" else os.O_RDWR)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_bytes(path: str | os.PathLike[str], content: bytes) -> None:
    """Write bytes, whole or not at all."""
    with replacing(path) as beside:
        beside.write_bytes(content)


def write_text(path: str | os.PathLike[str], text: str) -> None:
    """Write UTF-8 text, whole or not at all; line ends as given on every system."""
    write_bytes(path, text.encode())


def write_json(path: str | os.PathLike[str], value: object) -> None:
    """Write JSON, whole or not at all. NaN and infinity are not JSON: they raise ValueError."""
    write_text(path, json.dumps(value, indent=2, allow_nan=False) + "\n")
