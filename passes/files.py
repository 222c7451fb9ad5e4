"""Write files whole or not at all."""

from __future__ import annotations

__all__ = ["replacing", "write_whole"]

import contextlib
import os
import pathlib
from collections.abc import Iterator


@contextlib.contextmanager
def replacing(path: str | os.PathLike[str]) -> Iterator[pathlib.Path]:
    """Give a path to write to, beside ``path``; it takes the place of ``path`` when the block ends.

    A reader, a crash or a full disk never sees half a file: what was written reaches the disk and takes
    the name in one step. If the block raises, ``path`` is left as it was and what was written is
    removed. The name beside keeps the suffix, as some writers go by it.

    Raises:
        OSError: ``path`` is a folder, its own folder does not exist, or nothing can be written there;
            ``path`` is as it was.
    """
    path = pathlib.Path(path)
    if path.is_dir():
        reason = "it is a folder. Give the name of a file"
        error = IsADirectoryError(f"Cannot write {str(path)!r}: {reason}.")
        error.strerror = reason
        raise error
    beside = path.with_name(f".{path.stem}.{os.getpid()}.new{path.suffix}")
    try:
        yield beside
        _sync(beside)
        os.replace(beside, path)
        _sync(path.parent)  # the new name is on disk only when the folder is
    finally:
        beside.unlink(missing_ok=True)


def write_whole(path: str | os.PathLike[str], data: bytes) -> None:
    """Write bytes with ``replacing``."""
    with replacing(path) as beside:
        beside.write_bytes(data)


def _sync(path: pathlib.Path) -> None:
    """Have the disk hold what was written, so that a power cut after the rename leaves no empty file."""
    if os.name == "nt" and path.is_dir():
        return  # Windows opens no folders
    descriptor = os.open(path, os.O_RDONLY if os.name != "nt" else os.O_RDWR)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
