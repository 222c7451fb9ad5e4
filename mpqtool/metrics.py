"""How good outputs are: top-1 against labels, agreement or signal-to-noise against the float model."""

from __future__ import annotations

__all__ = ["Metric", "is_logits", "metric_name", "score"]

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

Metric = Literal["top1", "agreement", "sqnr_db"]
Arrays = Sequence[NDArray[Any]]


def is_logits(shapes: Sequence[Sequence[int]]) -> bool:
    """Whether outputs of these shapes are class logits: one output, ``(samples, classes)``."""
    return len(shapes) == 1 and len(shapes[0]) == 2 and shapes[0][1] > 1


def metric_name(outputs: Arrays, labels: NDArray[Any] | None) -> Metric:
    """Which metric fits."""
    if is_logits([output.shape for output in outputs]):
        return "agreement" if labels is None else "top1"
    return "sqnr_db"


def score(metric: Metric, outputs: Arrays, reference: Arrays, labels: NDArray[Any] | None) -> float:
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


def _sqnr(outputs: NDArray[Any], reference: NDArray[Any]) -> float:
    """``10 log10(sum r**2 / sum (y - r)**2)``, at most 200 dB."""
    signal = float(np.square(reference, dtype=np.float64).sum())
    noise = float(np.square(outputs.astype(np.float64) - reference).sum())
    return 200.0 if noise == 0 else min(200.0, 10 * float(np.log10(max(signal, 1e-300) / noise)))
