"""Write files whole or not at all."""

from __future__ import annotations

__all__ = ["write_whole"]

import os
import pathlib


def write_whole(path: str | os.PathLike[str], data: bytes) -> None:
    """Write a file so that a reader, a crash or a full disk never sees half of it.

    The bytes go to a file beside, reach the disk, and take the name in one step.

    Raises:
        OSError: The folder does not exist, or nothing can be written there; ``path`` is as it was.
    """
    target = pathlib.Path(path)
    beside = target.with_name(f".{target.name}.{os.getpid()}.part")
    try:
        with beside.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        beside.replace(target)
    except BaseException:
        beside.unlink(missing_ok=True)
        raise
    if os.name == "posix":  # the new name is on disk only when the folder is
        folder = os.open(target.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
