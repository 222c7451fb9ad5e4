"""Write text and JSON so that they appear whole or not at all, and make the folder if need be."""

from __future__ import annotations

__all__ = ["replacing", "write_json", "write_text"]

import contextlib
import json
import os
import pathlib

from mpqtool.passes import files


def replacing(path: str | os.PathLike[str]) -> contextlib.AbstractContextManager[pathlib.Path]:
    """``passes.files.replacing``, in a folder that is made if it is not there."""
    pathlib.Path(path).parent.mkdir(parents=True, exist_ok=True)
    return files.replacing(path)


def write_text(path: str | os.PathLike[str], text: str) -> None:
    """Write UTF-8 text, whole or not at all; line ends as given on every system."""
    with replacing(path) as beside:
        beside.write_bytes(text.encode())


def write_json(path: str | os.PathLike[str], value: object) -> None:
    """Write JSON, whole or not at all. NaN and infinity are not JSON: they raise ValueError."""
    write_text(path, json.dumps(value, indent=2, allow_nan=False) + "\n")
