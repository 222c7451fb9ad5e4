"""Equalize the layers of a run's model, and see that it still computes the same."""

from __future__ import annotations

__all__ = ["ROUNDING", "check_same", "equalized", "moved"]

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
from .run_data import drawn

ROUNDING = 1e-4
"""How far outputs may move when weights are rounded to float32 at another size, in units of the largest."""
_CHECKED = 512
"""Held-out samples that this is looked at on."""


def equalized(job: Job, samples: Mapping[str, NDArray[np.float32]]) -> ir.Model:
    """The folded model with equalized layers and absorbed biases.

    Args:
        job: The run.
        samples: Inputs that ranges are told from, by name.

    Raises:
        ModelError: It would compute something else.
    """
    folded, held_out = job.folded, drawn(job.held_out, _CHECKED, job.options.seed)
    model = pipelines.equalize(folded, channel_maxima(folded, clipped_values(folded), samples))
    model = pipelines.absorb_bias(model, channel_statistics(model, absorbable_values(model), samples))
    if moved(folded, model, held_out) > ROUNDING:
        job.reporter.say(
            "equalized without what hangs on the data: absorbing biases, or scaling what a Clip cuts, moved "
            "outputs on held-out samples"
        )
        model = pipelines.equalize(folded)
    change = check_same(folded, model, held_out, "Equalizing layers")
    job.reporter.say(
        f"equalized: float outputs on held-out data moved by {change:.1g} of the largest number at most"
    )
    return model


def check_same(before: ir.Model, after: ir.Model, samples: Mapping[str, NDArray[Any]], what: str) -> float:
    """How far float outputs are from what they were, in units of the largest number of each.

    Raises:
        ModelError: Further than rounding makes them.
    """
    change = moved(before, after, samples)
    if not change <= ROUNDING:
        raise ModelError(
            f"{what} moved a float output by {change:.2g} of its largest number, allowed is {ROUNDING:g}. "
            "Please report the file; it was not changed."
        )
    return change


def moved(before: ir.Model, after: ir.Model, samples: Mapping[str, NDArray[Any]]) -> float:
    """How far float outputs are from what they were, in units of the largest number of each."""
    return max(map(_moved, predict(before, samples), predict(after, samples)))


def _moved(before: NDArray[Any], after: NDArray[Any]) -> float:
    """The largest difference, in units of the largest finite number; 0 for what is no float."""
    if before.dtype.kind != "f":
        return 0.0
    largest = float(np.abs(before).max(initial=1e-6, where=np.isfinite(before)))
    return float(np.abs(after - before).max(initial=0, where=before != after)) / largest
