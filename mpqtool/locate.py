"""Find the Python object that ``package.module:name`` or ``path/to/file.py:name`` stands for."""

from __future__ import annotations

__all__ = ["is_object_spec", "locate"]

import importlib
import importlib.util
import os
import pathlib
import re
import sys
import types
from collections.abc import Callable
from typing import Any

_NAME = r"[A-Za-z_]\w*(?:\.[A-Za-z_]\w*)*"
_SPEC = re.compile(rf"({_NAME}|.+\.py):({_NAME})")


def is_object_spec(text: str) -> bool:
    """Whether the text has the form ``package.module:name`` or ``path/to/file.py:name``."""
    return _SPEC.fullmatch(text) is not None


def locate(spec: str, error: type[Exception]) -> Callable[..., Any]:
    """Import the callable that ``package.module:name`` or ``path/to/file.py:name`` stands for.

    The working directory is searched last, so that a user's own module is found and none of ours
    can be shadowed by it. A file is run anew each time.

    Raises:
        error: The text has another form, the module cannot be imported, or holds no such callable.
    """
    match = _SPEC.fullmatch(spec)
    if match is None:
        raise error(
            f"{spec!r} does not have the form package.module:name. Write it as mypackage.models:make, or as "
            "path/to/file.py:make."
        )
    module_name, path = match.groups()
    here = os.getcwd()
    if here not in sys.path and "" not in sys.path:
        sys.path.append(here)
    is_file = module_name.endswith(".py")
    if is_file and not os.path.isfile(module_name):
        raise error(f"No such file: {module_name!r}, wanted for {spec!r}")
    try:
        found: Any = _run_file(module_name) if is_file else importlib.import_module(module_name)
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


def _run_file(path: str) -> types.ModuleType:
    """Make a module of a file, under a name that no import finds."""
    name = f"{pathlib.Path(path).stem} of the user"
    location = importlib.util.spec_from_file_location(name, path)
    assert location is not None  # the name ends in .py
    assert location.loader is not None
    module = importlib.util.module_from_spec(location)
    sys.modules[name] = module  # dataclasses look for the module they are defined in
    location.loader.exec_module(module)
    return module
