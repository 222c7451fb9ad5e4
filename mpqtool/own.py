"""The user's own functions: a metric, and a loss. What is wrong with one is said in a line that names it."""

from __future__ import annotations

__all__ = ["check_loss", "make_loss", "make_metric"]

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from .batch import Batch, TaskLoss
from .errors import OptionError
from .factory import first_line
from .locate import locate
from .metrics import Measure

_CHECKED = 16
"""Samples that a loss is tried on before anything long begins."""


def make_metric(spec: str) -> Measure:
    """The metric that ``package.module:callable`` or ``FILE.py:callable`` stands for.

    Raises:
        OptionError: There is none; also later, if it raises or gives no finite number.
    """
    function = locate(spec, OptionError)

    def measure(
        outputs: Sequence[NDArray[Any]], reference: Sequence[NDArray[Any]], labels: NDArray[Any] | None
    ) -> float:
        if not all(np.isfinite(output).all() for output in outputs):
            return -math.inf  # as with every other metric
        found = _called("metric", spec, function, list(outputs), list(reference), labels)
        try:
            value = float(found)
        except (TypeError, ValueError, RuntimeError):
            value = math.nan
        if not math.isfinite(value):
            raise OptionError(
                f"metric {spec!r} returned {_shown(found)}, and one finite number is needed, larger for "
                "better outputs. Change it, or leave metric out."
            )
        return value

    return measure


def make_loss(spec: str) -> TaskLoss:
    """The loss that ``package.module:callable`` or ``FILE.py:callable`` stands for.

    Raises:
        OptionError: There is none; also later, if it raises or gives no scalar tensor with a gradient.
    """
    function = locate(spec, OptionError)

    def loss(outputs: Sequence[Tensor], batch: Batch) -> Tensor:
        found = _called("loss", spec, function, outputs, batch.taught, batch.labels)
        if not isinstance(found, Tensor) or found.ndim:
            raise OptionError(
                f"loss {spec!r} returned {_shown(found)}, and a tensor of shape () is needed: the mean over "
                "the batch. Change it, or leave loss out."
            )
        if torch.is_grad_enabled() and not found.requires_grad:
            raise OptionError(
                f"loss {spec!r} returned a tensor without a gradient: it must be computed from the outputs "
                "by torch, without detach() or numpy. Change it, or leave loss out."
            )
        return found

    return loss


def check_loss(
    spec: str, loss: TaskLoss, outputs: Sequence[NDArray[Any]], labels: NDArray[Any] | None, *, taught: bool
) -> None:
    """Try a loss on some outputs of the float model, 1 % smaller, so that a distance to them is not 0.

    Args:
        spec: What it is called.
        loss: What ``make_loss`` made of that.
        outputs: Of the float model.
        labels: Of the same samples.
        taught: Whether training has a teacher.

    Raises:
        OptionError: It cannot be trained with.
    """
    teacher = [torch.from_numpy(y[:_CHECKED].copy()) for y in outputs]
    student = [0.99 * y if y.is_floating_point() else y for y in teacher]
    for y in student:
        y.requires_grad_(y.is_floating_point())
    some = None if labels is None else torch.from_numpy(labels[:_CHECKED].copy())
    found = loss(student, Batch((), some, teacher if taught else None))
    if not math.isfinite(float(found.detach())):
        raise OptionError(
            f"loss {spec!r} returned {float(found.detach())} on the first samples, near the float model's "
            "own outputs, and a finite number is needed. Change it, or leave loss out."
        )


def _called(what: str, spec: str, function: Callable[..., Any], *arguments: Any) -> Any:
    try:
        return function(*arguments)
    except Exception as error:  # a user's function may raise anything
        raise OptionError(
            f"{what} {spec!r} raised {type(error).__name__}: {first_line(error)}. "
            f"Change it, or leave {what} out."
        ) from error


def _shown(found: Any) -> str:
    """A number as it is, of anything else the type and shape."""
    if isinstance(found, int | float | str):
        return repr(found)
    shape = f" of shape {tuple(found.shape)}" if hasattr(found, "shape") else ""
    return f"a {type(found).__name__}{shape}"
