"""What was measured before on this machine."""

from __future__ import annotations

__all__ = ["load", "path_of", "store"]

import contextlib
import hashlib
import json
import os
import pathlib
from typing import Any

from mpqtool.files import write_text

_FORMAT = 3


def path_of(model: bytes, **circumstances: object) -> pathlib.Path:
    """Where a choice for this model in these circumstances is kept: under ``XDG_CACHE_HOME``.

    A relative one is to be ignored: XDG Base Directory Specification 0.8.
    """
    digest = hashlib.sha256(model)
    digest.update(json.dumps([_FORMAT, circumstances], sort_keys=True, default=str).encode())
    home = pathlib.Path(os.environ.get("XDG_CACHE_HOME", ""))
    if not home.is_absolute():
        home = pathlib.Path("~/.cache").expanduser()
    return home / "mpqtool" / "fastest" / f"{digest.hexdigest()[:32]}.json"


def load(path: pathlib.Path) -> dict[str, Any] | None:
    """The choice that is kept there, if one is, and it can be read."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return found if isinstance(found, dict) else None


def store(path: pathlib.Path, choice: dict[str, Any]) -> None:
    """Keep a choice; a folder that cannot be written to does no harm."""
    with contextlib.suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        write_text(path, json.dumps(choice, indent=1))
