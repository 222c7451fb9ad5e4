"""What can go wrong when files are run."""

from __future__ import annotations

__all__ = ["RuntimeFault"]


class RuntimeFault(Exception):  # noqa: N818 - "RuntimeError" is taken
    """A file cannot be run, or not in the way that was asked for; one line that says what to do next."""
