"""Equalize the layers of a run's model, and see that it still computes the same."""

from __future__ import annotations

__all__ = ["check_same", "equalized"]

from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from mpqtool.passes import pipelines
from mpqtool.passes.equalize import absorbable_values, clipped_values
from mpqtool.runtime.predict import predict

from .channel_statistics import channel_maxima, channel_statistics
from .errors import ModelError
from .job import Job

_ROUNDING = 1e-4
"""How far outputs may move when weights are rounded to float32 at another size, in units of the largest."""


def equalized(job: Job, samples: Mapping[str, NDArray[np.float32]]) -> ir.Model:
    """The folded model with equalized layers and absorbed biases.

    Args:
        job: The run.
        samples: Inputs that ranges are told from, by name.

    Raises:
        ModelError: It would compute something else.
    """
    folded = job.folded
    model = pipelines.equalize(folded, channel_maxima(folded, clipped_values(folded), samples))
    model = pipelines.absorb_bias(model, channel_statistics(model, absorbable_values(model), samples))
    moved = check_same(folded, model, samples, "Equalizing layers")
    job.reporter.say(f"equalized: float outputs moved by {moved:.1g} of the largest number at most")
    return model


def check_same(before: ir.Model, after: ir.Model, samples: Mapping[str, NDArray[Any]], what: str) -> float:
    """How far float outputs are from what they were, in units of the largest number of each.

    Raises:
        ModelError: Further than rounding makes them.
    """
    moved = max(map(_moved, predict(before, samples), predict(after, samples)))
    if not moved <= _ROUNDING:
        raise ModelError(
            f"{what} moved a float output by {moved:.2g} of its largest number, allowed is {_ROUNDING:g}. "
            "Please report the file; it was not changed."
        )
    return moved


def _moved(before: NDArray[Any], after: NDArray[Any]) -> float:
    """The largest difference, in units of the largest finite number; 0 for what is no float."""
    if before.dtype.kind != "f":
        return 0.0
    largest = float(np.abs(before).max(initial=1e-6, where=np.isfinite(before)))
    return float(np.abs(after - before).max(initial=0, where=before != after)) / largest
