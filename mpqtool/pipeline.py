"""The way of a model: float ONNX in, verified integer ONNX out."""

from __future__ import annotations

__all__ = ["run"]

import pathlib

from .emit import emit
from .finish import apply_plan, finish
from .job import prepare
from .options import QuantizeOptions
from .processes import is_main
from .reporter import Reporter
from .result import Result
from .rundir import begin


def run(model_path: str | pathlib.Path, options: QuantizeOptions, reporter: Reporter) -> Result:
    """Quantize one model.

    Args:
        model_path: A float ONNX file.
        options: What to do; see ``QuantizeOptions``.
        reporter: Where progress goes.

    Returns:
        The run directory and its ``result.json``.

    Raises:
        PassError: The model or the plan cannot be used; nothing was written.
        DataError: The data cannot be used; nothing was written.
        CheckpointError: ``--resume`` does not fit; nothing was written.
        VerificationError: Two engines gave different integers; ``model.int.onnx`` was not written.
    """
    if not is_main():
        reporter = Reporter(silent=True)
    job = prepare(model_path, options, reporter)  # load, normalize, place quantizers, read the data
    begin(job)
    with job.timed("train"):
        # Learn widths and scales, then fold BatchNormalization and train on in integers.
        finished = finish(job) if options.plan is None else apply_plan(job)
    return emit(job, finished)  # plan, QDQ file, integer file, proof, result, report
