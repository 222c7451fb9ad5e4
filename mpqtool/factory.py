"""Call the factory that makes a torch network, with arguments that come as text."""

from __future__ import annotations

__all__ = ["first_line", "make_network"]

import ast
import contextlib
import inspect
import types
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Union, get_args, get_origin

import torch
from torch import nn

from .errors import ModelError, OptionError
from .locate import locate

_WORDS = {"true": True, "false": False, "none": None}
_RULES = {bool: "true or false", int: "an integer", float: "a number", type(None): "none"}
_EXAMPLES = {bool: "true", int: "1", float: "0.5", type(None): "none"}


def make_network(spec: str, arg: Mapping[str, Any] | Sequence[str], seed: int) -> nn.Module:
    """Call ``package.module:factory``, with the seed of torch set for it alone.

    Args:
        spec: Where the factory is.
        arg: Its arguments, ``{"in_channels": 1}`` or ``("in_channels=1",)``. Text is read as a Python
            literal, true, false and none in any case; what is neither is text.
        seed: Seed of the weights that it draws.

    Raises:
        OptionError: There is no such factory, it does not take these arguments, or makes something else.
        ModelError: The factory raised.
    """
    factory = locate(spec, OptionError)
    signature = _signature(factory)
    arguments = dict(arg) if isinstance(arg, Mapping) else _read(arg, signature)
    try:
        signature.bind(**arguments)
    except TypeError as error:
        raise OptionError(
            f"{spec!r} cannot be called with {arguments or 'no arguments'}: {error}. Its arguments are "
            f"{', '.join(signature.parameters) or 'none'}; give them as --arg NAME=VALUE."
        ) from None
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        try:
            network: object = factory(**arguments)
        except Exception as error:  # a user's factory may raise anything
            refused = isinstance(error, ValueError) and bool(arguments)
            raise (OptionError if refused else ModelError)(
                f"{spec!r} raised {type(error).__name__}: {first_line(error)}. "
                "Give other arguments as --arg NAME=VALUE, or change the factory."
            ) from error
    if not isinstance(network, nn.Module):
        raise OptionError(
            f"{spec!r} gives a {type(network).__name__}, and a torch.nn.Module is needed. "
            "Name a function or class that makes a network."
        )
    return network


def first_line(error: BaseException) -> str:
    """What an error says, cut to one line without a full stop, or its type where it says nothing."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0].rstrip(".") if lines else type(error).__name__


def _signature(factory: Callable[..., Any]) -> inspect.Signature:
    for evaluated in (True, False):
        # Annotations may name what only a type checker imports, and some builtins have no signature.
        with contextlib.suppress(Exception):
            return inspect.signature(factory, eval_str=evaluated)
    return inspect.signature(lambda **_: None)


def _read(texts: Sequence[str], signature: inspect.Signature) -> dict[str, Any]:
    arguments: dict[str, Any] = {}
    for text in [texts] if isinstance(texts, str) else texts:
        name, equals, value = text.partition("=")
        if not equals or not name.isidentifier() or name in arguments:
            raise OptionError(f"--arg must be NAME=VALUE, as in_channels=1, once for each name; got {text!r}")
        arguments[name] = _value(name, value, _kinds(signature.parameters.get(name)))
    return arguments


def _kinds(parameter: inspect.Parameter | None) -> tuple[Any, ...]:
    """The types that the annotation allows; empty where it says nothing."""
    if parameter is None:
        return ()
    annotation = parameter.annotation
    if annotation is parameter.empty:
        return (bool,) if isinstance(parameter.default, bool) else ()
    return get_args(annotation) if get_origin(annotation) in (Union, types.UnionType) else (annotation,)


def _value(name: str, text: str, kinds: tuple[Any, ...]) -> object:
    """Read one value, and hold it against the types where these are numbers, truth values and text alone."""
    value = _literal(text)
    if not kinds or type(value) in kinds or (float in kinds and type(value) is int):
        return value
    if str in kinds:
        return text
    if all(kind in _RULES for kind in kinds):
        raise OptionError(
            f"--arg {name} must be {' or '.join(_RULES[kind] for kind in kinds)}; got {text!r}. "
            f"Write --arg {name}={_EXAMPLES[kinds[0]]}, for example."
        )
    return value


def _literal(text: str) -> object:
    word = text.strip().lower()
    if word in _WORDS:
        return _WORDS[word]
    try:
        return ast.literal_eval(text)
    except (ValueError, TypeError, SyntaxError, MemoryError, RecursionError):
        return text
