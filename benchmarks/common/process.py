"""Programs as a user starts them: whole processes, imports and all."""

from __future__ import annotations

__all__ = ["Process", "mpqtool_command", "run"]

import dataclasses
import os
import pathlib
import subprocess
import sys
import time
from collections.abc import Sequence


@dataclasses.dataclass(frozen=True, kw_only=True)
class Process:
    """What a program took.

    Attributes:
        seconds: From its start to its end.
        cpu_seconds: On all cores together.
        megabytes: Resident memory at its peak.
        failure: The last line that it said, if its exit status was not 0.
    """

    seconds: float
    cpu_seconds: float
    megabytes: float
    failure: str | None


def mpqtool_command(*arguments: str | os.PathLike[str]) -> list[str]:
    """The command line of mpqtool, by the Python that runs this."""
    return [sys.executable, "-P", "-m", "mpqtool", *map(os.fspath, arguments)]


def run(command: Sequence[str | os.PathLike[str]], log: pathlib.Path) -> Process:
    """Run a program to its end; what it says goes to a file.

    Python may keep the bytecode of what it imports, as of installed programs.
    """
    log.parent.mkdir(parents=True, exist_ok=True)
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONDONTWRITEBYTECODE"}
    with log.open("w") as told:
        began = time.perf_counter()
        child = subprocess.Popen(command, stdout=told, stderr=subprocess.STDOUT, env=environment)
        _, status, usage = os.wait4(child.pid, 0)
        seconds = time.perf_counter() - began
    child.returncode = os.waitstatus_to_exitcode(status)  # it was not Popen that waited
    lines = log.read_text().strip().splitlines() or [f"exit status {child.returncode}"]
    return Process(
        seconds=seconds,
        cpu_seconds=usage.ru_utime + usage.ru_stime,
        megabytes=usage.ru_maxrss / 1024,
        failure=lines[-1] if child.returncode else None,
    )
