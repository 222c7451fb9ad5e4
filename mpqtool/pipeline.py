"""The way of a model: float ONNX in, verified integer ONNX out."""

from __future__ import annotations

__all__ = ["run"]

import pathlib
import shutil
from collections.abc import Callable

from . import rundir
from .emit import emit
from .finish import finish
from .finished import Finished
from .job import Job, prepare
from .options import QuantizeOptions
from .processes import is_main, main_first
from .reporter import Reporter
from .result import Result
from .run_fat import fat
from .run_plan import apply_plan
from .run_ptq import post_training
from .tensorboard import check_available

_WAYS: dict[str | None, Callable[[Job], Finished]] = {None: apply_plan, "ptq": post_training, "fat": fat}
"""What finds the numbers of a network without training it in integers at the end."""


def run(model_path: str | pathlib.Path, options: QuantizeOptions, reporter: Reporter) -> Result:
    """Quantize one model.

    Args:
        model_path: A float ONNX file.
        options: What to do; see ``QuantizeOptions``.
        reporter: Where progress goes.

    Returns:
        The run directory and its ``result.json``.

    Raises:
        OptionError: TensorBoard files are asked for, and the package is missing; nothing was written.
        PassError: The model or the plan cannot be used; nothing was written.
        DataError: The data cannot be used; nothing was written.
        CheckpointError: ``--resume`` or ``--take`` does not fit; nothing was written.
        TrainingError: The training came to no usable network; no ONNX file was written.
        VerificationError: Two engines gave different integers; ``model.int.onnx`` was not written.
    """
    if not is_main():
        reporter = Reporter(silent=True)
    if options.tensorboard:
        check_available()
    job = prepare(model_path, options, reporter)  # load, normalize, place quantizers, read the data
    try:
        _begin(job)
        with job.timed("train"):
            finished = _WAYS.get(options.method, finish)(job)
        return emit(job, finished)  # plan, QDQ file, integer file, proof, result, report
    finally:
        reporter.close()


def _begin(job: Job) -> None:
    """Make the directory and begin the log; what an earlier run gave stays until training is done."""
    with main_first() as main:
        if not main:
            return
        job.out.mkdir(parents=True, exist_ok=True)
        if (job.out / rundir.RESULT).exists():
            job.reporter.warn(f"{str(job.out)!r} holds the files of an earlier run; they will be replaced")
        if job.checkpoint is None:
            (job.out / rundir.LOG).unlink(missing_ok=True)
            for folder in (rundir.CHECKPOINT, rundir.ITERATIONS, rundir.TENSORBOARD):
                shutil.rmtree(job.out / folder, ignore_errors=True)
        job.reporter.open(job.out / rundir.LOG)
        if job.options.tensorboard:
            job.reporter.open_board(job.out / rundir.TENSORBOARD)
        job.reporter.event("start", path=str(job.path), resumed=job.checkpoint is not None, **job.identity)
