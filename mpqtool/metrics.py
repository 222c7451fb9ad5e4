"""How good outputs are: top-1 against labels, agreement or signal-to-noise against the float model."""

from __future__ import annotations

__all__ = ["Measure", "check_metric", "is_logits", "metric_name", "score", "sqnr_error"]

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .errors import OptionError

Arrays = Sequence[NDArray[Any]]
Measure = Callable[[Arrays, Arrays, NDArray[Any] | None], float]
"""Gives the metric of outputs beside the float model's, and labels if there are any; higher is better."""


def is_logits(shapes: Sequence[Sequence[int]]) -> bool:
    """Whether outputs of these shapes are class logits: one output, ``(samples, classes)``."""
    return len(shapes) == 1 and len(shapes[0]) == 2 and shapes[0][1] > 1


def metric_name(outputs: Arrays, labels: NDArray[Any] | None) -> str:
    """Which metric fits."""
    if is_logits([output.shape for output in outputs]):
        return "agreement" if labels is None else "top1"
    return "sqnr_db"


def check_metric(metric: str, outputs: Arrays, labels: NDArray[Any] | None) -> None:
    """See that a built-in metric that was asked for can be measured.

    Raises:
        OptionError: It cannot.
    """
    if metric != "sqnr_db" and not is_logits([output.shape for output in outputs]):
        found = ", ".join(" x ".join(["N", *map(str, output.shape[1:])]) for output in outputs)
        raise OptionError(
            f"metric {metric!r} needs one output of shape (batch, classes), and the model gives {found}; "
            "choose sqnr_db, or a function of your own"
        )
    if metric == "top1" and labels is None:
        raise OptionError("metric 'top1' needs class labels, and the data has none; choose agreement")


def score(metric: str, outputs: Arrays, reference: Arrays, labels: NDArray[Any] | None) -> float:
    """The metric of some outputs.

    Args:
        metric: ``top1`` and ``agreement`` in percent, ``sqnr_db`` in dB (worst output).
        outputs: Outputs over a split, in graph order.
        reference: The float model's outputs over the same split.
        labels: Class indices, for ``top1``.

    Returns:
        The score; ``-inf`` if an output is NaN or infinite, which is worse than any number.
    """
    if not all(np.isfinite(output).all() for output in outputs):
        return -np.inf
    if metric == "sqnr_db":
        return min(_sqnr(y, r) for y, r in zip(outputs, reference, strict=True))
    right = labels if metric == "top1" and labels is not None else reference[0].argmax(1)
    return 100 * float((outputs[0].argmax(1) == right).mean())


def sqnr_error(outputs: Arrays, reference: Arrays) -> float:
    """The standard error of ``sqnr_db`` in dB: how far other samples of the same kind would move it.

    ``10 / ln(10) * sqrt(sum_i (s_i / S - n_i / N)**2)``, for the signal ``s_i`` and noise ``n_i`` of sample i
    and their sums: the delta method for a ratio of means. It is 6.1 dB at most.

    Args:
        outputs: As for ``score``, samples on axis 0.
        reference: The same of the float model.
    """
    worst = min(zip(outputs, reference, strict=True), key=lambda pair: _sqnr(*pair))
    y, r = (np.asarray(array, np.float64).reshape(len(array), -1) for array in worst)
    signal, noise = np.square(r).sum(1), np.square(y - r).sum(1)
    shares = [part / max(float(part.sum()), 1e-300) for part in (signal, noise)]
    return 10 / math.log(10) * math.sqrt(float(np.square(shares[0] - shares[1]).sum()))


def _sqnr(outputs: NDArray[Any], reference: NDArray[Any]) -> float:
    """``10 log10(sum r**2 / sum (y - r)**2)``, at most 200 dB."""
    signal = float(np.square(reference, dtype=np.float64).sum())
    noise = float(np.square(outputs.astype(np.float64) - reference).sum())
    return 200.0 if noise == 0 else min(200.0, 10 * float(np.log10(max(signal, 1e-300) / noise)))
