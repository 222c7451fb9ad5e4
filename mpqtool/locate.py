"""Find the Python object that ``package.module:name`` stands for."""

from __future__ import annotations

__all__ = ["is_object_spec", "locate"]

import importlib
import os
import re
import sys
from collections.abc import Callable
from typing import Any

_SPEC = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*(\.[A-Za-z_]\w*)*")


def is_object_spec(text: str) -> bool:
    """Whether the text has the form ``package.module:name``."""
    return _SPEC.fullmatch(text) is not None


def locate(spec: str, error: type[Exception]) -> Callable[..., Any]:
    """Import the callable that ``package.module:name`` stands for.

    The working directory is searched last, so that a user's own module is found and none of ours
    can be shadowed by it.

    Raises:
        error: The text has another form, the module cannot be imported, or holds no such callable.
    """
    if not is_object_spec(spec):
        raise error(
            f"{spec!r} does not have the form package.module:name. Write it as mypackage.models:make."
        )
    module_name, _, path = spec.partition(":")
    here = os.getcwd()
    if here not in sys.path and "" not in sys.path:
        sys.path.append(here)
    try:
        found: Any = importlib.import_module(module_name)
    except Exception as cause:  # a user's module may raise anything while it is imported
        raise error(
            f"Cannot import {module_name!r} for {spec!r}: {type(cause).__name__}: {cause}. "
            "Install what is missing, or start in the folder that holds the module."
        ) from cause
    for part in path.split("."):
        if not hasattr(found, part):
            names = getattr(found, "__all__", ())
            offers = f": it has {', '.join(names)}" if names else ""
            raise error(
                f"{module_name!r} has no {path!r}, wanted for {spec!r}{offers}. Name something it has."
            )
        found = getattr(found, part)
    if not callable(found):
        raise error(
            f"{spec!r} is a {type(found).__name__}, and a callable is needed. Name a function or class."
        )
    return found  # type: ignore[no-any-return]
